/**
 * Calls of a server that answers in JSON: errors of its own come back with their kind, and a server that is away is `unavailable`. The host gives
 * `fetch`, so that it works in any worker, and in Node.
 */
import { type ErrorKind, errorKinds, messageOf, PageliteError } from '../../engine/errors.ts';

/** `globalThis.fetch`, or what a host has instead. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export interface HttpJsonOptions {
  /** Of the server, without a slash at its end: `http://127.0.0.1:9899`. */
  readonly server: string;
  readonly fetch: Fetch;
}

export class HttpJson {
  readonly #options: HttpJsonOptions;

  constructor(options: HttpJsonOptions) {
    this.#options = options;
  }

  async call(
    method: string,
    path: string,
    body: string | Uint8Array<ArrayBuffer> | null,
    signal?: AbortSignal,
  ): Promise<object> {
    const { server, fetch } = this.#options;
    const type = typeof body === 'string' ? 'application/json' : 'application/octet-stream';
    // Of this call alone: a host may keep what listens to a signal for as long as the signal is there.
    const ending = new AbortController();
    const end = () => ending.abort(signal?.reason);
    if (signal?.aborted) end();
    signal?.addEventListener('abort', end, { once: true });
    let response: Response;
    let text: string;
    try {
      const headers = body === null ? undefined : { 'content-type': type };
      response = await fetch(server + path, { method, body, signal: ending.signal, ...(headers && { headers }) });
      text = await response.text();
    } catch (cause) {
      if (signal?.aborted) throw cancelled(signal);
      const message = `the server at ${server} does not answer: ${messageOf(cause)}`;
      throw new PageliteError('unavailable', message, { server }, { cause });
    } finally {
      signal?.removeEventListener('abort', end);
    }
    const json = parse(text);
    if (response.ok && json !== null) return json;
    throw errorOf(server, response.status, json, text);
  }

  /** An answer that is not one. */
  unexpected(answer: object): PageliteError {
    const text = JSON.stringify(answer).slice(0, 500);
    return new PageliteError('unavailable', `the server at ${this.#options.server} answered with ${text}`);
  }
}

function cancelled(signal: AbortSignal): PageliteError {
  const { reason } = signal;
  return reason instanceof PageliteError ? reason : new PageliteError('cancelled', 'the request was cancelled');
}

function parse(text: string): object | null {
  try {
    const json = JSON.parse(text);
    return typeof json === 'object' ? json : null;
  } catch {
    return null;
  }
}

function errorOf(server: string, status: number, json: object | null, text: string): PageliteError {
  const { msg, kind, data } = (json ?? {}) as { msg?: string; kind?: ErrorKind; data?: object };
  // A gateway that says nothing of ours: the server behind it is away.
  const known = kind !== undefined && errorKinds.includes(kind) ? kind : status >= 500 ? 'unavailable' : 'invalid';
  return new PageliteError(known, msg ?? `the server at ${server} answered ${status}: ${text.slice(0, 500)}`, {
    ...data,
    status,
  });
}
