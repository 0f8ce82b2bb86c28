/**
 * How errors look in the HTTP APIs: `{"msg": ...}` as in Neon, with the kind and the data of a PageliteError beside it, and the status code of
 * its kind. Bodies and parameters that do not fit are 400, with every problem named.
 */
import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import type { z } from 'zod';
import { type ErrorKind, isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log } from '../../engine/services.ts';
import { HttpError } from './http-error.ts';

const statusOfKind: Record<ErrorKind, ContentfulStatusCode> = {
  unavailable: 503,
  notFound: 404,
  invalid: 400,
  fenced: 409,
  corrupt: 500,
  closed: 503,
  cancelled: 408,
};

export function answerError(c: Context, error: unknown, log: Log): Response {
  if (error instanceof HTTPException) return c.json({ msg: error.message }, error.status as ContentfulStatusCode);
  if (isPageliteError(error)) {
    const status = error instanceof HttpError ? error.status : statusOfKind[error.kind];
    return c.json({ msg: error.message, kind: error.kind, data: error.data }, status);
  }
  log.error('internal error', {
    request: `${c.req.method} ${c.req.path}`,
    error: messageOf(error),
    stack: error instanceof Error ? error.stack : undefined,
  });
  return c.json({ msg: `internal error: ${messageOf(error)}` }, 500);
}

export function answerNotFound(c: Context): Response {
  return c.json({ msg: `there is no ${c.req.method} ${c.req.path}`, kind: 'notFound', data: {} }, 404);
}

/** The JSON body as `schema` has it, or an `invalid` error that names every field that does not fit. An empty body is `{}`. */
export async function readBody<S extends z.ZodType>(c: Context, schema: S): Promise<z.infer<S>> {
  const text = await c.req.text();
  let json: unknown;
  try {
    json = text.trim() === '' ? {} : JSON.parse(text);
  } catch (error) {
    throw new PageliteError('invalid', `the request body is not JSON: ${messageOf(error)}`);
  }
  return check(schema, json, 'request body');
}

export function readQuery<S extends z.ZodType>(c: Context, schema: S): z.infer<S> {
  return check(schema, c.req.query(), 'query');
}

function check<S extends z.ZodType>(schema: S, value: unknown, what: string): z.infer<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map(({ path, message }) => `${path.join('.') || what}: ${message}`);
  throw new PageliteError('invalid', `malformed ${what}: ${problems.join('; ')}`);
}
