/**
 * R3, W1. The shared memory between a compute's thread and its I/O host.
 *
 * The compute asks and sleeps in `Atomics.wait`; the I/O host, which may await, answers and wakes it. One request is under way at a time. WAL
 * goes through a ring beside it, so that it is streamed while a transaction runs and a commit needs no request: the compute raises
 * `walFlushTarget`, the host answers in `walFlushed`.
 *
 *   | bytes             | content                                                                         |
 *   |-------------------|---------------------------------------------------------------------------------|
 *   | 0                 | 64 words (Int32), see `word`                                                    |
 *   | 256               | arguments of a request: 288 Float64                                             |
 *   | 2560              | failure: PageliteError as JSON, `word.failureBytes` long                        |
 *   | 16384             | answer: 1 MiB of pages and room for a header                                    |
 *   | 16384 + 1,114,112 | WAL ring of 8 MiB, indexed by a position modulo its size                        |
 *
 * Positions in the WAL stream are bytes since the start LSN modulo 2^32; two of them are never 2^31 apart, so their difference is exact as
 * Int32.
 *
 * Invariants
 * - `commitSoon` is raised by the compute and lowered by the host
 * - otherwise only the compute writes `doorbell`, `requestSeq`, `op`, arguments, `walHead`, `walFlushTarget`; only the host writes the rest
 * - the answer area belongs to the host from `requestSeq` on until `answerSeq` equals it, then to the compute until its next request
 */
import { assert } from '../../engine/assert.ts';
import { pageSize, pagesPerRequestMax, walInFlightBytesMax } from '../../engine/limits.ts';

export const word = {
  /** Goes up whenever there is something for the host; the host sleeps on it. */
  doorbell: 0,
  requestSeq: 1,
  /** The compute sleeps on it. */
  answerSeq: 2,
  op: 3,
  /** 0 fine, 1: the answer is a PageliteError as JSON. */
  answerStatus: 4,
  answerBytes: 5,
  /** Bytes of the answer that did not fit and wait for op `more`. */
  answerRest: 6,
  walHead: 7,
  /** What the host has taken; the compute sleeps on it when the ring is full. */
  walTail: 8,
  walFlushTarget: 9,
  /** Up to here the quorum has the WAL; the compute sleeps on it at a commit. */
  walFlushed: 10,
  /** 1 once the bridge has failed for good; every sleeper is woken. */
  failed: 11,
  failureBytes: 12,
  /** 1 while the host sleeps: otherwise it need not be woken. */
  hostSleeps: 13,
  /** Goes up every `hostHeartbeatMs`: a compute must not wait for ever for a thread that has died. */
  heartbeat: 14,
  /** 1: a commit is about to come; the host that takes it back to 0 looks out for it instead of sleeping. */
  commitSoon: 15,
} as const;

export const hostHeartbeatMs = 1_000;
/** A thread that is merely busy (a long redo, a garbage collection) comes round well within it. */
export const hostSilenceMaxMs = 60_000;

export const op = { getPages: 1, getRelSize: 2, listRels: 3, readWal: 4, more: 5, ping: 6, bye: 7 } as const;

export const argumentCount = 288;
/** Arguments of getPages before its hints: spc, db, rel, fork, first block, block count, LSN, hint count. Each hint: the first seven. */
export const hintsAt = 8;
export const argumentsPerHint = 7;
/** Ranges that one request may announce as wanted soon. */
export const hintsPerRequestMax = 40;

const argumentsOffset = 256;
const failureOffset = 2560;
export const failureBytesMax = 8192;
const answerOffset = 16384;
export const answerBytesMax = 1024 * 1024 + 64 * 1024;
const ringOffset = answerOffset + answerBytesMax;
/** A quarter of what may be in flight: the host takes WAL out as it comes, so the ring is only the hop's slack. A power of two. */
export const walRingBytes = 8 * 1024 * 1024;

assert(argumentsOffset + argumentCount * 8 <= failureOffset);
assert(hintsAt + hintsPerRequestMax * argumentsPerHint <= argumentCount);
assert(failureOffset + failureBytesMax <= answerOffset);
assert(pagesPerRequestMax * pageSize <= answerBytesMax);
assert(2 ** 32 % walRingBytes === 0);
assert(walInFlightBytesMax + walRingBytes < 2 ** 31);

export interface BridgeMemory {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array;
  readonly arguments: Float64Array;
  readonly failure: Uint8Array;
  readonly answer: Uint8Array;
  readonly ring: Uint8Array;
}

export function createBridgeBuffer(): SharedArrayBuffer {
  return new SharedArrayBuffer(ringOffset + walRingBytes);
}

export function attachBridge(buffer: SharedArrayBuffer): BridgeMemory {
  return {
    buffer,
    words: new Int32Array(buffer, 0, 64),
    arguments: new Float64Array(buffer, argumentsOffset, argumentCount),
    failure: new Uint8Array(buffer, failureOffset, failureBytesMax),
    answer: new Uint8Array(buffer, answerOffset, answerBytesMax),
    ring: new Uint8Array(buffer, ringOffset, walRingBytes),
  };
}
