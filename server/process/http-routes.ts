/**
 * An HTTP API as a list of routes, each said once: method, path, parameters, body, answer, errors and what it does. The server checks requests
 * by it (`mountRoutes`), and its OpenAPI description is made of it (openapi.ts).
 *
 * A new route is a call of `route` (path-parameters.ts) in a list that its server mounts:
 *
 *   route({
 *     method: 'PUT', path: '/v1/tenant/{tenant_id}/timeline/{timeline_id}/do_gc', operation: 'collectGarbage',
 *     summary: 'Removes what retention does not need',
 *     body: z.strictObject({ gc_horizon: z.number().int().nonnegative().optional() }),
 *     answer: json(z.object({ layers_removed: z.number() }), 'What was removed'),
 *     errors: { 409: 'another collection runs' },
 *     handle: async ({ params, body }) => ({ layers_removed: await pageserver.collectGarbage(idOf(params), body) }),
 *   })
 *
 * The compiler checks that the answer fits its schema. A schema with `.meta({ id })` is a component of the description, by that name.
 *
 * Invariants
 * - a handler sees parameters, query and body that fit; anything else is 400 and names every problem (http-errors.ts)
 * - no body is longer than the route's `bodyBytesMax`: 413
 * - nothing is handled before `authorize` has let it pass, and no body is read before that unless the route says `tenantOf`
 */
import type { Context, Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { z } from 'zod';
import type { TenantId } from '../../engine/model/ids.ts';
import { readBody, readQuery } from './http-errors.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** A part of a path that stands for something. `parse` throws `invalid`. */
export interface PathParameter<T> {
  readonly schema: z.ZodType;
  parse(text: string): T;
}

/** Throws a refusal unless the request may do what concerns `tenant`, or, for null, the server as a whole. */
export type Authorize = (c: Context, tenant: TenantId | null) => void;

export interface JsonAnswer<S extends z.ZodType> {
  readonly kind: 'json';
  readonly status: 200 | 201;
  readonly description: string;
  readonly schema: S;
}

/** Anything but JSON: the handler makes the Response. `headers` and further statuses are described, not checked. */
export interface RawAnswer {
  readonly kind: 'raw';
  readonly status: 200;
  readonly description: string;
  readonly contentType: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly otherStatuses?: Readonly<Record<number, string>>;
}

export const json = <S extends z.ZodType>(schema: S, description: string, status: 200 | 201 = 200): JsonAnswer<S> => ({
  kind: 'json',
  status,
  description,
  schema,
});

export const raw = (contentType: string, description: string, more: Partial<RawAnswer> = {}): RawAnswer => ({
  ...more,
  kind: 'raw',
  status: 200,
  description,
  contentType,
});

/** A body that the handler checks by itself, described as `shape`. */
export function checkedByHandler(shape: z.ZodType): z.ZodType<unknown> {
  const { $schema: _, ...described } = z.toJSONSchema(shape);
  const isThere = (body: unknown) => typeof body === 'object' && body !== null && Object.keys(body).length > 0;
  return z.unknown().refine(isThere, 'is missing').meta(described);
}

type Answer = JsonAnswer<z.ZodType> | RawAnswer;
type AnswerValue<A> = A extends JsonAnswer<infer S> ? z.input<S> : Response;
type NamesIn<Path extends string> = Path extends `${string}{${infer Name}}${infer Rest}` ? Name | NamesIn<Rest> : never;
type ParameterTypes = Readonly<Record<string, PathParameter<unknown>>>;
type ValuesOf<P extends ParameterTypes, Names extends string> = {
  readonly [N in Names & keyof P]: P[N] extends PathParameter<infer T> ? T : never;
};

/** What openapi.ts describes. */
export interface RouteDescription {
  readonly method: Method;
  /** With `{name}` for each parameter. */
  readonly path: string;
  /** Unique in the API: what generated clients call it. */
  readonly operation: string;
  readonly summary: string;
  readonly description?: string;
  readonly query?: z.ZodObject;
  /** JSON. An absent body is `{}`. */
  readonly body?: z.ZodType;
  /** The body is not JSON: what it is. The handler reads it from the request. */
  readonly bytes?: string;
  readonly bodyBytesMax?: number;
  readonly answer: Answer;
  /** Errors that are this route's own, beside those that follow from its parts (openapi.ts). */
  readonly errors?: Readonly<Record<number, string>>;
  /** Needs no token where the server wants them. */
  readonly isOpen?: boolean;
}

export interface Route extends RouteDescription {
  readonly parameters: Readonly<Record<string, z.ZodType>>;
  serve(c: Context, authorize: Authorize): Promise<Response>;
}

export interface RouteSpec<P extends ParameterTypes, Path extends string, Q, B, A extends Answer>
  extends RouteDescription {
  readonly path: Path;
  readonly query?: Q & z.ZodObject;
  readonly body?: B & z.ZodType;
  readonly answer: A;
  /** Whose the request is, where its body says so. Default: the path's `{tenant_id}`; without one it is about the whole server. */
  tenantOf?(body: z.output<B>): TenantId;
  handle(
    input: {
      readonly params: ValuesOf<P, NamesIn<Path>>;
      readonly query: z.output<Q>;
      readonly body: z.output<B>;
    },
    c: Context,
  ): AnswerValue<A> | Promise<AnswerValue<A>>;
}

/** A `route` for paths whose parameters are these. */
export function routesWith<P extends ParameterTypes>(known: P) {
  return <Path extends string, A extends Answer, Q = z.ZodObject, B = z.ZodType>(
    spec: RouteSpec<P, Path, Q, B, A>,
  ): Route => {
    const names = namesIn(spec.path);
    const parameters = Object.fromEntries(names.map((name) => [name, parameterOf(known, name, spec.path).schema]));
    const serve = async (c: Context, authorize: Authorize): Promise<Response> => {
      const params = Object.fromEntries(names.map((name) => [name, known[name]!.parse(c.req.param(name) ?? '')]));
      if (!spec.tenantOf) authorize(c, (params.tenant_id as TenantId | undefined) ?? null);
      const query = (spec.query ? readQuery(c, spec.query) : {}) as z.output<Q>;
      const body = (spec.body ? await readBody(c, spec.body) : {}) as z.output<B>;
      if (spec.tenantOf) authorize(c, spec.tenantOf(body));
      const answer = await spec.handle({ params: params as ValuesOf<P, NamesIn<Path>>, query, body }, c);
      if (answer instanceof Response) return answer;
      return c.json(answer as object, spec.answer.status as ContentfulStatusCode);
    };
    return { ...(spec as unknown as RouteDescription), parameters, serve };
  };
}

/** No request without a bound of its own is longer. */
export const bodyBytesMaxDefault = 64 * 1024;

export function mountRoutes(api: Hono, routes: readonly Route[], authorize: Authorize): void {
  for (const { method, path, bodyBytesMax = bodyBytesMaxDefault, serve } of routes) {
    const limit = bodyLimit({ maxSize: bodyBytesMax, onError: tooLarge });
    api.on([method], [honoPath(path)], limit, (c) => serve(c, authorize));
  }
}

/** As Hono writes it. */
export const honoPath = (path: string): string => path.replace(/\{(\w+)\}/g, ':$1');

const namesIn = (path: string): string[] => [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!);

function parameterOf(known: ParameterTypes, name: string, path: string): PathParameter<unknown> {
  const parameter = known[name];
  if (parameter === undefined) throw new Error(`${path}: nobody knows what {${name}} is`);
  return parameter;
}

function tooLarge(c: Context): Response {
  return c.json({ msg: 'the request body is too large', kind: 'invalid' }, 413);
}
