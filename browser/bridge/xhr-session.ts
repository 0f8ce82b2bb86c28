/**
 * A session with the server that runs the I/O host of a compute without shared memory: opened by the storage worker, which also shows that the page is
 * alive while its compute is busy or idle, and hears there when the compute cannot go on.
 */
import { messageOf, PageliteError } from '../../engine/errors.ts';
import {
  type BridgeError,
  decodeStart,
  type OpenSession,
  sessionKeepAliveMs,
} from '../../smgr-plugin/bridge/http-bridge.ts';
import type { ComputeStart } from '../../smgr-plugin/bridge/io-host.ts';

const openTimeoutMs = 60_000;

export class XhrSession {
  /** To which the compute sends its requests. */
  readonly url: string;
  readonly start: ComputeStart;
  readonly startBytes: number;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #onFailed: (error: PageliteError) => void;

  private constructor(url: string, bytes: Uint8Array, onFailed: (error: PageliteError) => void) {
    const { session, start } = decodeStart(bytes);
    this.url = `${url}/${session}`;
    this.start = start;
    this.startBytes = bytes.length;
    this.#onFailed = onFailed;
    this.#timer = setInterval(() => void this.#showLife(), sessionKeepAliveMs);
  }

  static async open(server: string, open: OpenSession, onFailed: (error: PageliteError) => void): Promise<XhrSession> {
    const url = `${server}/api/v1/bridge`;
    const response = await request(url, { method: 'POST', body: JSON.stringify(open) });
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (response.status !== 200) throw errorOf(url, response.status, bytes).error;
    return new XhrSession(url, bytes, onFailed);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    // The server notices by itself that the page is gone.
    await request(this.url, { method: 'DELETE' }).catch(() => {});
  }

  async #showLife(): Promise<void> {
    try {
      const response = await request(this.url, { method: 'POST' });
      if (response.status === 200) return;
      const { fatal, error } = errorOf(this.url, response.status, new Uint8Array(await response.arrayBuffer()));
      if (!fatal) return;
      clearInterval(this.#timer);
      this.#onFailed(error);
    } catch {
      // The server is away: the compute finds out when it needs it, and until then it may come back.
    }
  }
}

async function request(url: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, { ...init, signal: AbortSignal.timeout(openTimeoutMs) });
  } catch (cause) {
    throw new PageliteError('unavailable', `no answer from ${url}: ${messageOf(cause)}`, { url }, { cause });
  }
}

function errorOf(url: string, status: number, bytes: Uint8Array): { fatal: boolean; error: PageliteError } {
  const text = new TextDecoder().decode(bytes);
  try {
    const { fatal, error } = JSON.parse(text) as BridgeError;
    return { fatal, error: PageliteError.fromJSON(error) };
  } catch {
    const error = new PageliteError('unavailable', `${url} answered ${status}: ${text.slice(0, 200)}`, { status });
    return { fatal: false, error };
  }
}
