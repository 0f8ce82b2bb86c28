/**
 * The OpenAPI 3.1 description of an API, made of its routes (http-routes.ts). OpenAPI 3.1 speaks JSON Schema 2020-12, which zod writes.
 *
 * Every route has, beside its own errors, those that follow from its parts: 400 if something of a request is checked, 404 if its path names
 * something, 413 if it takes a body, 401 and 403 unless it is open, and what any request may meet: 421, 500, 503.
 *
 * Invariants
 * - schemas with an id stand once, under `components`; two different ones of the same id are a bug
 * - what a server answers may grow: descriptions of answers do not forbid further fields
 */
import { z } from 'zod';
import { errorKinds } from '../../engine/errors.ts';
import type { Route } from './http-routes.ts';

export interface ApiInfo {
  readonly title: string;
  readonly version: string;
  readonly description: string;
}

type JsonValue = string | number | boolean | null | undefined | Json | JsonValue[];
interface Json {
  [name: string]: JsonValue;
}

export interface OpenApi {
  readonly openapi: string;
  readonly info: Json;
  readonly paths: Record<string, Record<string, Json>>;
  readonly components: {
    readonly schemas: Record<string, Json>;
    readonly responses: Record<string, Json>;
    readonly securitySchemes: Record<string, Json>;
  };
}

export const errorBody = z
  .object({
    msg: z.string().describe('What is wrong, for people'),
    kind: z
      .enum(errorKinds)
      .optional()
      .describe(
        'unavailable: try again; notFound; invalid: change the request; fenced: a newer writer rules; corrupt: stored bytes are damaged',
      ),
    data: z.record(z.string(), z.unknown()).optional().describe('What it is about: ids, LSNs, files'),
  })
  .meta({ id: 'Error' });

const commonErrors: Readonly<Record<number, string>> = {
  401: 'The server wants tokens, and the request has none that holds',
  403: 'The token opens something else',
  400: 'Something in the request does not fit. The message names every problem',
  404: 'What the path names does not exist',
  413: 'The body is too large',
  421: 'The request names another process than this one (x-pagelite-pid)',
  500: 'Stored bytes are damaged, or a bug',
  503: 'Not now: try again',
};

const bearer = 'bearer';
const bearerScheme = {
  type: 'http',
  scheme: 'bearer',
  bearerFormat: 'JWT',
  description:
    'Signed with EdDSA; claims scope (pageserverapi, or tenant with tenant_id), exp. A server without public keys wants none',
};

export function describeApi(info: ApiInfo, routes: readonly Route[]): OpenApi {
  const schemas = new Components();
  const error = schemas.schema(errorBody, 'output');
  const errorContent = { 'application/json': { schema: error } };
  const responses = Object.fromEntries(
    Object.entries(commonErrors).map(([status, description]) => [status, { description, content: errorContent }]),
  );
  const paths: OpenApi['paths'] = {};
  const operations = new Set<string>();
  for (const route of routes) {
    const { path, operation } = route;
    const method = route.method.toLowerCase();
    paths[path] ??= {};
    if (paths[path][method] !== undefined) throw new Error(`${route.method} ${path} is there twice`);
    if (operations.has(operation)) throw new Error(`operation ${operation} is there twice`);
    operations.add(operation);
    paths[path][method] = describeRoute(route, schemas, errorContent);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: info.title,
      version: info.version,
      description: info.description,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths,
    components: { schemas: schemas.all, responses, securitySchemes: { [bearer]: bearerScheme } },
  };
}

function describeRoute(route: Route, schemas: Components, errorContent: Json): Json {
  const { operation, summary, description, path } = route;
  const parameters = [...pathParameters(route, schemas), ...queryParameters(route, schemas)];
  const body = requestBody(route, schemas);
  return {
    operationId: operation,
    summary,
    ...(description !== undefined && { description }),
    tags: [tagOf(path)],
    ...(parameters.length > 0 && { parameters }),
    ...(body !== null && { requestBody: body }),
    // Or none: a server without public keys trusts everybody.
    ...(!route.isOpen && { security: [{ [bearer]: [] }, {}] }),
    responses: { ...answers(route, schemas), ...errors(route, errorContent) },
  };
}

/** What the path is about, for those who show the description: tenant, timeline, import, layer, process. */
function tagOf(path: string): string {
  if (!path.startsWith('/v1/tenant')) return 'process';
  if (path.includes('/import')) return 'import';
  if (path.includes('/layer')) return 'layer';
  return path.includes('/timeline') ? 'timeline' : 'tenant';
}

function pathParameters({ parameters }: Route, schemas: Components): Json[] {
  return Object.entries(parameters).map(([name, schema]) => ({
    name,
    in: 'path',
    required: true,
    ...described(schemas.schema(schema, 'input')),
  }));
}

function queryParameters({ query }: Route, schemas: Components): Json[] {
  if (query === undefined) return [];
  const { properties = {}, required = [] } = schemas.schema(query, 'input') as {
    properties?: Json;
    required?: string[];
  };
  return Object.entries(properties).map(([name, schema]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    ...described(schema as Json),
  }));
}

/** A parameter's description stands beside its schema. */
function described(schema: Json): Json {
  const { description, ...rest } = schema;
  return { ...(description !== undefined && { description }), schema: rest };
}

function requestBody({ body, bytes }: Route, schemas: Components): Json | null {
  if (bytes !== undefined) {
    return { required: true, description: bytes, content: { 'application/octet-stream': { schema: {} } } };
  }
  if (body === undefined) return null;
  const schema = schemas.schema(body, 'input');
  return { required: !body.safeParse({}).success, content: { 'application/json': { schema } } };
}

function answers({ answer }: Route, schemas: Components): Json {
  const { status, description } = answer;
  if (answer.kind === 'json') {
    const schema = schemas.schema(answer.schema, 'output');
    return { [status]: { description, content: { 'application/json': { schema } } } };
  }
  const headers = Object.entries(answer.headers ?? {}).map(([name, text]) => [
    name,
    { description: text, schema: { type: 'string' } },
  ]);
  const content = { [answer.contentType]: { schema: {} } };
  const others = Object.entries(answer.otherStatuses ?? {}).map(([other, text]) => [
    other,
    { description: text, content },
  ]);
  return {
    [status]: { description, content, ...(headers.length > 0 && { headers: Object.fromEntries(headers) }) },
    ...Object.fromEntries(others),
  };
}

function errors(route: Route, content: Json): Json {
  const statuses: number[] = [421, 500, 503];
  const takesBody = route.body !== undefined || route.bytes !== undefined;
  const names = Object.keys(route.parameters).length > 0;
  if (!route.isOpen) statuses.push(401, 403);
  if (takesBody) statuses.push(413);
  if (names) statuses.push(404);
  if (takesBody || names || route.query !== undefined) statuses.push(400);
  const common = statuses.map((status) => [status, { $ref: `#/components/responses/${status}` }]);
  const own = Object.entries(route.errors ?? {}).map(([status, description]) => [status, { description, content }]);
  return Object.fromEntries([...common, ...own]);
}

/** The schemas that have a name, as they are met. */
class Components {
  readonly all: Record<string, Json> = {};

  /** A schema with an id is a reference to it, also inside of others. */
  schema(schema: z.ZodType, io: 'input' | 'output'): Json {
    const json = z.toJSONSchema(schema, { io, override: ({ jsonSchema }) => simplify(jsonSchema, io) });
    const { $schema: _, $defs = {}, ...rest } = withReferences(json) as Json;
    for (const [name, named] of Object.entries($defs as Json)) this.#add(name, named as Json);
    return rest;
  }

  #add(name: string, json: Json): void {
    const before = this.all[name];
    if (before !== undefined && JSON.stringify(before) !== JSON.stringify(json)) {
      throw new Error(`two schemas are called ${name}`);
    }
    this.all[name] = json;
  }
}

/** What holds of every number here goes without saying. */
function simplify(schema: z.core.JSONSchema.BaseSchema, io: 'input' | 'output'): void {
  if (io === 'output' && schema.additionalProperties === false) delete schema.additionalProperties;
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum;
  if (schema.minimum === Number.MIN_SAFE_INTEGER) delete schema.minimum;
}

function withReferences(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(withReferences);
  if (typeof json !== 'object' || json === null) return json;
  return Object.fromEntries(
    Object.entries(json).map(([name, value]) => [
      name,
      name === '$ref' && typeof value === 'string'
        ? value.replace('#/$defs/', '#/components/schemas/')
        : withReferences(value),
    ]),
  );
}
