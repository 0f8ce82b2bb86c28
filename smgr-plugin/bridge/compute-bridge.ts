/**
 * R3, W1. What a compute asks of its I/O host, in calls that block. Over shared memory (sync-bridge.ts), or, where a page has none, over whatever else
 * a thread can wait for.
 *
 * Invariants
 * - after a failure (fenced, host gone) every call throws that failure, for good
 * - bytes returned are the caller's until the next call
 */
import type { PageliteError } from '../../engine/errors.ts';
import type { RelTag } from '../../engine/model/rel.ts';

/** A range of blocks that is going to be asked for. */
export interface ReadHint {
  readonly rel: RelTag;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly lsn: number;
}

export interface ComputeBridge {
  /** Why nothing works any more; null as long as it does. */
  readonly failure: PageliteError | null;
  /** Whole pages, one after another. `hints` are what will be wanted next; the host begins to fetch them. */
  getPages(rel: RelTag, firstBlock: number, blockCount: number, lsn: number, hints: readonly ReadHint[]): Uint8Array;
  /** In blocks; null if the relation fork does not exist. */
  getRelSize(rel: RelTag, lsn: number): number | null;
  /** Every relation fork of a database: rel, fork, size, as consecutive u32. A copy. */
  listRels(spc: number, db: number, lsn: number): Uint32Array;
  /** Committed WAL [lsn, lsn + length) from a safekeeper, a copy. `boundary` is where a record ends, at or before `lsn`. */
  readWal(boundary: number, lsn: number, length: number): Uint8Array;
  /** Streams bytes [start, end) of `source`. Returns the position behind them, modulo 2^32. */
  pushWal(source: Uint8Array, start: number, end: number): number;
  /** Blocks until the quorum has all WAL up to `position` (of pushWal). Throws the failure if it never will. */
  flushWal(position: number): void;
  /** A commit is likely to come at once. Does not wait. */
  expectCommit(): void;
  /** One hop and back. */
  ping(): void;
  /** Tells the host that this compute has ended in order. Does not wait. */
  bye(): void;
}
