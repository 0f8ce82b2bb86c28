/**
 * R3, W1. A compute's bridge without shared memory: synchronous XMLHttpRequests to a server that runs the I/O host (server/console/bridge-sessions.ts).
 *
 * For pages without cross-origin isolation, which is most of the web; a request costs some milliseconds where the shared bridge costs microseconds. WAL is
 * gathered here and travels with the next request, a commit's with its flush.
 *
 * Invariants
 * - a request whose answer is lost is sent again until `retryTimeLimitMs` have passed; the server takes WAL once, by its offset
 * - `flushWal` returns only when the server says that the quorum has it
 * - after a failure every call throws it, for good
 */
import { must } from '../../engine/assert.ts';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { walMessageBytesMax } from '../../engine/limits.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import { argumentsPerHint, hintsAt, hintsPerRequestMax, op } from '../../smgr-plugin/bridge/bridge-layout.ts';
import type { ComputeBridge, ReadHint } from '../../smgr-plugin/bridge/compute-bridge.ts';
import { type BridgeError, encodeRequest, flushOp } from '../../smgr-plugin/bridge/http-bridge.ts';

/** A server that is started again is back well within it; its sessions are not, and it says so. */
const retryTimeLimitMs = 60_000;
const retryPauseMs = 250;
const noArguments = new Float64Array(0);

export class XhrBridge implements ComputeBridge {
  readonly #url: string;
  #failure: PageliteError | null = null;
  readonly #wal = new Uint8Array(walMessageBytesMax);
  #walBytes = 0;
  /** Of the first byte in `#wal`, since the start. */
  #walOffset = 0;
  /** Position up to which the quorum has the WAL. */
  #flushed = 0;
  /** For `pageCounters`. */
  pagesRead = 0;
  bytesRead = 0;

  constructor(url: string) {
    this.#url = url;
  }

  get failure(): PageliteError | null {
    return this.#failure;
  }

  getPages(rel: RelTag, firstBlock: number, blockCount: number, lsn: number, hints: readonly ReadHint[]): Uint8Array {
    const told = hints.slice(0, hintsPerRequestMax);
    const args = new Float64Array(hintsAt + told.length * argumentsPerHint);
    args.set(rangeOf(rel, firstBlock, blockCount, lsn));
    args[7] = told.length;
    told.forEach((hint, i) => {
      args.set(rangeOf(hint.rel, hint.firstBlock, hint.blockCount, hint.lsn), hintsAt + i * argumentsPerHint);
    });
    this.pagesRead += blockCount;
    return this.#request(op.getPages, args);
  }

  getRelSize(rel: RelTag, lsn: number): number | null {
    const answer = this.#request(op.getRelSize, rangeOf(rel, 0, 0, lsn));
    const size = new DataView(answer.buffer, answer.byteOffset).getFloat64(0, true);
    return size < 0 ? null : size;
  }

  listRels(spc: number, db: number, lsn: number): Uint32Array {
    const bytes = this.#request(op.listRels, rangeOf({ spc, db, rel: 0, fork: 0 }, 0, 0, lsn));
    return new Uint32Array(bytes.buffer, 0, bytes.length / 4);
  }

  readWal(boundary: number, lsn: number, length: number): Uint8Array {
    return this.#request(op.readWal, Float64Array.of(boundary, lsn, length));
  }

  pushWal(source: Uint8Array, start: number, end: number): number {
    for (let at = start; at < end; ) {
      if (this.#walBytes === this.#wal.length) this.#request(op.ping, noArguments);
      const count = Math.min(end - at, this.#wal.length - this.#walBytes);
      this.#wal.set(source.subarray(at, at + count), this.#walBytes);
      this.#walBytes += count;
      at += count;
    }
    return (this.#walOffset + this.#walBytes) | 0;
  }

  flushWal(position: number): void {
    this.#throwIfFailed();
    if (((position - this.#flushed) | 0) <= 0) return;
    // A lost quorum makes a commit wait, not fail.
    while (this.#request(flushOp, noArguments)[0] !== 1);
    this.#flushed = this.#walOffset | 0;
  }

  expectCommit(): void {}

  ping(): void {
    this.#request(op.ping, noArguments);
  }

  bye(): void {
    // The storage worker ends the session.
    this.#failure ??= new PageliteError('closed', 'the compute has ended');
  }

  #request(code: number, args: Float64Array): Uint8Array {
    this.#throwIfFailed();
    const wal = this.#wal.subarray(0, this.#walBytes);
    const body = encodeRequest({ op: code, args, walOffset: this.#walOffset, wal });
    const { status, bytes } = this.#send(body);
    if (status === 200) {
      this.#walOffset += this.#walBytes;
      this.#walBytes = 0;
      return bytes;
    }
    const { fatal, error } = parseError(status, bytes);
    if (fatal) this.#failure = error;
    throw error;
  }

  #send(body: Uint8Array<ArrayBuffer>): { status: number; bytes: Uint8Array } {
    const startMs = performance.now();
    for (;;) {
      try {
        const request = new XMLHttpRequest();
        request.open('POST', this.#url, false);
        request.responseType = 'arraybuffer';
        request.send(body);
        const bytes = new Uint8Array(must(request.response as ArrayBuffer | null));
        this.bytesRead += bytes.length;
        return { status: request.status, bytes };
      } catch (cause) {
        if (performance.now() - startMs >= retryTimeLimitMs) {
          const text = `the server was not reached in ${retryTimeLimitMs} ms: ${messageOf(cause)}`;
          this.#failure = new PageliteError('unavailable', text, { url: this.#url }, { cause });
          throw this.#failure;
        }
        sleepInPlace(retryPauseMs);
      }
    }
  }

  #throwIfFailed(): void {
    if (this.#failure !== null) throw this.#failure;
  }
}

function rangeOf(rel: RelTag, first: number, count: number, lsn: number): Float64Array {
  return Float64Array.of(rel.spc, rel.db, rel.rel, rel.fork, first, count, lsn);
}

function parseError(status: number, bytes: Uint8Array): { fatal: boolean; error: PageliteError } {
  const text = new TextDecoder().decode(bytes);
  try {
    const { fatal, error } = JSON.parse(text) as BridgeError;
    return { fatal: fatal !== false, error: PageliteError.fromJSON(error) };
  } catch {
    const error = new PageliteError('unavailable', `the server answered ${status}: ${text.slice(0, 200)}`, { status });
    return { fatal: true, error };
  }
}

/** A thread may sleep on shared memory of WebAssembly's, which a page that is not isolated can make and not send. */
function sleepInPlace(ms: number): void {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  Atomics.wait(new Int32Array(memory.buffer), 0, 0, ms);
}
