/**
 * The LSN at which a timeline held everything committed until a moment, and nothing later.
 *
 * A clog page's value carries the time of the latest commit or abort on it (ingest/patch.ts), so "the latest end of a transaction at an LSN"
 * is a question about the clog as of that LSN; it only grows with the LSN, but for clocks that were set back. Two binary searches: the first
 * LSN at which something later than the moment is visible; then, below it, the first LSN from which on no transaction ended. That second one
 * is the end of a record, where a branch can begin, and leaves out what later transactions had already written (Neon stops after the first).
 *
 * Times are compared inclusively: PostgreSQL in WASM has a clock of milliseconds, and a commit in the very millisecond asked for counts.
 */

import { clogValueBytes } from '../ingest/patch.ts';
import { readSlruSegments } from '../ingest/slru.ts';
import { pageSize } from '../limits.ts';
import { slruKind } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ValueReader } from '../services.ts';

/**
 * present: transactions ended before and after the moment. future: all of them before it. past: all of them after it, `lsn` is the start.
 * nodata: none has ended, `lsn` is the start.
 */
export type TimestampMatch = 'present' | 'future' | 'past' | 'nodata';

export interface TimestampLsn {
  readonly kind: TimestampMatch;
  readonly lsn: Lsn;
}

/** 2000-01-01, PostgreSQL's epoch, in milliseconds since Unix's. */
const postgresEpochMs = 946_684_800_000;

/** Searches [startLsn, endLsn], both of which `readerAt` can read at. `timestampMs` counts from the Unix epoch. */
export async function findLsnByTimestamp(
  readerAt: (lsn: Lsn) => ValueReader,
  startLsn: Lsn,
  endLsn: Lsn,
  timestampMs: number,
): Promise<TimestampLsn> {
  const latestAt = async (lsn: Lsn) => latestEnd(await clogPages(readerAt(lsn)));
  const atStart = await latestAt(startLsn);
  if (atStart !== null && atStart > timestampMs) return { kind: 'past', lsn: startLsn };
  const atEnd = await latestAt(endLsn);
  if (atEnd === null) return { kind: 'nodata', lsn: startLsn };

  const isLater = async (lsn: Lsn) => {
    const latest = await latestAt(lsn);
    return latest !== null && latest > timestampMs;
  };
  const later = atEnd > timestampMs ? await firstLsn(startLsn, endLsn, isLater) : null;
  const last = (later === null ? endLsn : later - 8) as Lsn;
  const pages = await clogPages(readerAt(last));
  if (latestEnd(pages) === null) return { kind: 'past', lsn: startLsn };
  const isSame = async (lsn: Lsn) => samePages(await clogPages(readerAt(lsn)), pages);
  const lsn = (await isSame(startLsn)) ? startLsn : await firstLsn(startLsn, last, isSame);
  return { kind: later === null ? 'future' : 'present', lsn };
}

/** The time of the latest commit or abort that is visible to `reader`, in milliseconds since the Unix epoch; null if there is none. */
export async function timestampOfLsn(reader: ValueReader): Promise<number | null> {
  return latestEnd(await clogPages(reader));
}

/** The lowest LSN in (start, end] of which `holds`; it holds at `end`, not at `start`, and from where it begins to hold it goes on. */
async function firstLsn(start: Lsn, end: Lsn, holds: (lsn: Lsn) => Promise<boolean>): Promise<Lsn> {
  let low: number = start;
  let high: number = end;
  // Records end at multiples of eight.
  while (high - low > 8) {
    const middle = Math.floor((low + high) / 16) * 8;
    if (middle <= low) break;
    if (await holds(middle as Lsn)) high = middle;
    else low = middle;
  }
  return high as Lsn;
}

async function clogPages(reader: ValueReader): Promise<Uint8Array[]> {
  return (await readSlruSegments(slruKind.clog, reader)).flatMap(({ pages }) => pages);
}

/** The latest time on any page, in milliseconds since the Unix epoch; null if there is none. */
function latestEnd(pages: readonly Uint8Array[]): number | null {
  let latest: number | null = null;
  for (const page of pages) {
    if (page.length !== clogValueBytes) continue;
    const view = new DataView(page.buffer, page.byteOffset + pageSize, 8);
    const microseconds = view.getInt32(4, true) * 4294967296 + view.getUint32(0, true);
    // A page that came with the template, or on which no transaction has ended.
    if (microseconds === 0) continue;
    const time = microseconds / 1000 + postgresEpochMs;
    if (latest === null || time > latest) latest = time;
  }
  return latest;
}

function samePages(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((page, i) => sameBytes(page, b[i]!));
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
