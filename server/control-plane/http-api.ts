/**
 * HTTP to one of the repository's servers (server/pageserver/http-api.ts, server/safekeeper/http-api.ts), as the command line speaks it.
 *
 * Errors of the other side come back with their kind; one that does not answer is `unavailable`, with the command that starts it.
 *
 * Invariant: a request reaches the process that the repository's pid file names, or nobody. Its port may be another repository's by now.
 */
import type { z } from 'zod';
import { type ErrorKind, errorKinds, messageOf, PageliteError } from '../../engine/errors.ts';
import { HttpImportPeer } from '../../engine/transfer/http-import-peer.ts';
import type { TokenSource } from '../auth/tokens.ts';
import { urlHost } from '../net/url.ts';
import type { HostPort } from '../pageserver/config.ts';
import { forPidHeader } from '../process/misdirected.ts';
import { runningPid } from '../process/pid-file.ts';
import type { Repository } from './repository.ts';

/** Longer than anything a server waits for by itself. */
const requestTimeoutMs = 90_000;
/** Of what reads or writes a whole timeline. Node's fetch gives up by itself after five minutes. */
export const longRequestTimeoutMs = 240_000;

/** One server's HTTP API. */
export class HttpApi {
  readonly #base: string;
  readonly #server: string;
  readonly #pidFile: string;
  readonly #token: TokenSource;

  constructor(server: string, address: HostPort, pidFile: string, token: TokenSource) {
    this.#server = server;
    this.#pidFile = pidFile;
    this.#token = token;
    this.#base = `http://${urlHost(address.host)}:${address.port}`;
  }

  static ofPageserver(repository: Repository): HttpApi {
    const address = { host: repository.connectHost, port: repository.readConfig().pageserver.httpPort };
    return new HttpApi('pageserver', address, repository.pageserverPidFile, repository.tokensFor('pageserver'));
  }

  /** For messages: "pageserver". */
  get server(): string {
    return this.#server;
  }

  /** A body that is no JSON. */
  async text(path: string): Promise<string> {
    const response = await this.#ask('GET', path);
    const text = await response.text();
    if (!response.ok) throw errorOf(this.#server, response.status, asJson(text), text);
    return text;
  }

  async bytes(path: string, headers: Readonly<Record<string, string>>): Promise<Uint8Array> {
    const response = await this.#ask('GET', path, undefined, undefined, headers);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
    const text = await response.text();
    throw errorOf(this.#server, response.status, asJson(text), text);
  }

  async call<S extends z.ZodType>(
    schema: S,
    method: string,
    path: string,
    body?: object,
    timeoutMs = requestTimeoutMs,
  ): Promise<z.infer<S>> {
    const response = await this.#ask(method, path, body, undefined, {}, timeoutMs);
    const text = await response.text();
    const json = asJson(text);
    if (!response.ok) throw errorOf(this.#server, response.status, json, text);
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data;
    throw new PageliteError(
      'unavailable',
      `the ${this.#server} at ${this.#base} answered ${method} ${path} with "${text}"`,
    );
  }

  /** As engine/transfer speaks to a pageserver. */
  get importPeer(): HttpImportPeer {
    return new HttpImportPeer({
      call: async (method, path, body, signal) => {
        const response = await this.#ask(method, path, body ?? undefined, signal);
        const text = await response.text();
        const json = asJson(text);
        if (!response.ok) throw errorOf(this.#server, response.status, json, text);
        return typeof json === 'object' && json !== null ? json : {};
      },
      unexpected: (answer) =>
        new PageliteError('unavailable', `the ${this.#server} at ${this.#base} answered ${JSON.stringify(answer)}`),
    });
  }

  async #ask(
    method: string,
    path: string,
    body?: object | string | Uint8Array<ArrayBuffer>,
    signal?: AbortSignal,
    headers: Readonly<Record<string, string>> = {},
    timeoutMs = requestTimeoutMs,
  ): Promise<Response> {
    const pid = runningPid(this.#pidFile);
    if (pid === null) throw this.#unanswered('it is not running');
    const response = await this.#fetch(method, path, pid, timeoutMs, body, signal, headers);
    if (response.status === 421) throw this.#unanswered('another process has its port');
    return response;
  }

  async #fetch(
    method: string,
    path: string,
    pid: number,
    timeoutMs: number,
    body?: object | string | Uint8Array<ArrayBuffer>,
    signal?: AbortSignal,
    more: Readonly<Record<string, string>> = {},
  ): Promise<Response> {
    const timeout = AbortSignal.timeout(timeoutMs);
    const isBytes = body instanceof Uint8Array;
    const type = isBytes ? 'application/octet-stream' : 'application/json';
    const token = this.#token();
    try {
      return await fetch(`${this.#base}${path}`, {
        method,
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
        headers: {
          ...more,
          [forPidHeader]: String(pid),
          ...(token !== null && { authorization: `Bearer ${token}` }),
          ...(body !== undefined && { 'content-type': type }),
        },
        ...(body !== undefined && { body: isBytes || typeof body === 'string' ? body : JSON.stringify(body) }),
      });
    } catch (cause) {
      if (signal?.aborted) throw signal.reason;
      if (timeout.aborted) throw this.#late(timeoutMs, cause);
      throw this.#unanswered(messageOf((cause as { cause?: unknown }).cause ?? cause), cause);
    }
  }

  #late(timeoutMs: number, cause: unknown): PageliteError {
    const text = `the ${this.#server} at ${this.#base} has not answered in ${timeoutMs / 1000} s. It may still be at it`;
    return new PageliteError('unavailable', text, { address: this.#base, isLate: true }, { cause });
  }

  #unanswered(why: string, cause?: unknown): PageliteError {
    const text = `the ${this.#server} does not answer at ${this.#base} (${why}). Start it with: pagelite start`;
    return new PageliteError('unavailable', text, { address: this.#base }, { cause });
  }
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function errorOf(server: string, status: number, json: unknown, text: string): PageliteError {
  const { msg, kind, data } = (json ?? {}) as { msg?: string; kind?: ErrorKind; data?: object };
  const known = kind !== undefined && errorKinds.includes(kind);
  return new PageliteError(known ? kind : 'unavailable', msg ?? `the ${server} answered ${status}: ${text}`, {
    ...data,
    status,
  });
}
