/**
 * When transactions committed: the ends of some commits of a timeline, spread over time, for a slider over its history.
 *
 * A clog page is patched by every commit that it tells of, and the patch has the commit's time (ingest/patch.ts). So the versions that lead to the
 * newest clog page at an LSN are a run of commits with their exact LSNs, down to where the page was last stored whole: up to a thousand of them for
 * the price of one page. A short history is one run. Of a long one the runs are read where the largest stretches of time are not known yet.
 *
 * Invariants
 * - every point is the end of a commit record: a branch can begin there, and reads there see that commit
 * - at most `runsMax` runs are read, however long the history is
 * - not every commit is found: not one of a transaction that was so long that its clog page was no longer the newest
 */

import { patchType } from '../ingest/patch.ts';
import { decodeSize } from '../ingest/rel-sizes.ts';
import { decodeSegments } from '../ingest/small-directories.ts';
import { ClockCache } from '../layers/clock-cache.ts';
import type { ValueChain } from '../layers/value-chain.ts';
import { type Key, sizeBlock, slruDirectoryKey, slruKind, slruPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { valueKind } from '../model/value.ts';
import type { ValueReader } from '../services.ts';
import { gather, type TimelineView } from './gather.ts';
import { PageVersions } from './page-versions.ts';

export interface CommitPoint {
  readonly lsn: Lsn;
  /** Since the Unix epoch. */
  readonly timeMs: number;
}

/** Commits in (from, lsn] of the LSN that was asked for, oldest first. */
export interface CommitRun {
  readonly from: number;
  readonly commits: readonly CommitPoint[];
}

export type ReadCommits = (lsn: Lsn) => Promise<CommitRun>;

/** Each costs a few blocks of layers and at most a thousand small values. */
const runsMax = 48;
/** 2000-01-01, PostgreSQL's epoch, in milliseconds since Unix's. */
const postgresEpochMs = 946_684_800_000;

/** A stretch (start, end] of which nothing is known but the times at its ends; null: not even that. */
interface Gap {
  readonly start: number;
  readonly end: number;
  readonly startMs: number | null;
  readonly endMs: number | null;
}

/** At most `countMax` commits in (start, end], oldest first. `startMs`: of the last commit up to `start`. */
export async function spreadCommits(
  read: ReadCommits,
  start: Lsn,
  end: Lsn,
  startMs: number | null,
  countMax: number,
): Promise<CommitPoint[]> {
  const found = new Map<Lsn, CommitPoint>();
  const readAt = async ({ start, end, startMs, endMs }: Gap, at: number): Promise<Gap[]> => {
    const { from, commits } = await read(at as Lsn);
    const inside = commits.filter(({ lsn }) => lsn > start && lsn <= at);
    for (const commit of inside) found.set(commit.lsn, commit);
    return [
      // A commit that ends where the page was stored whole is in that: it is not seen.
      { start, end: Math.min(from, at) - 8, startMs, endMs: inside[0]?.timeMs ?? endMs },
      { start: at, end, startMs: inside.at(-1)?.timeMs ?? startMs, endMs },
    ].filter(isWorthwhile);
  };
  const gaps = start < end ? await readAt({ start, end, startMs, endMs: null }, end) : [];
  for (let runs = 1; runs < runsMax && gaps.length > 0; runs++) {
    const widest = gaps.reduce((a, b) => (isWider(a, b) ? a : b));
    gaps.splice(gaps.indexOf(widest), 1, ...(await readAt(widest, middleOf(widest))));
  }
  const commits = [...found.values()].sort((a, b) => a.lsn - b.lsn);
  return spread(commits, countMax);
}

/** Records end at multiples of eight. Time stands still in a gap in which nothing was committed. */
const isWorthwhile = ({ start, end, startMs, endMs }: Gap) =>
  end - start >= 8 && (startMs === null || endMs === null || endMs > startMs);

const middleOf = ({ start, end }: Gap) => Math.max(start + 8, Math.floor((start + end) / 16) * 8);

const durationOf = ({ startMs, endMs }: Gap) =>
  startMs === null || endMs === null ? Number.POSITIVE_INFINITY : endMs - startMs;

function isWider(a: Gap, b: Gap): boolean {
  const [durationA, durationB] = [durationOf(a), durationOf(b)];
  return durationA === durationB ? a.end - a.start > b.end - b.start : durationA > durationB;
}

/** `countMax` of `commits`: the first and the last, then again and again the one that halves the longest time between two that are in. */
export function spread(commits: readonly CommitPoint[], countMax: number): CommitPoint[] {
  if (commits.length <= countMax) return [...commits];
  const last = commits.length - 1;
  if (countMax < 2) return countMax === 1 ? [commits[last]!] : [];
  const chosen = [0, last];
  const spans = [{ from: 0, to: last }];
  const duration = ({ from, to }: { from: number; to: number }) => commits[to]!.timeMs - commits[from]!.timeMs;
  while (chosen.length < countMax) {
    const longest = spans.reduce((a, b) => (duration(b) > duration(a) ? b : a));
    const { from, to } = longest;
    const middle = nearestTo((commits[from]!.timeMs + commits[to]!.timeMs) / 2, commits, from, to);
    chosen.push(middle);
    const halves = [
      { from, to: middle },
      { from: middle, to },
    ].filter((span) => span.to - span.from > 1);
    spans.splice(spans.indexOf(longest), 1, ...halves);
  }
  return chosen.sort((a, b) => a - b).map((index) => commits[index]!);
}

/** The first commit between `from` and `to`, neither of them, that is not before the time; the last one if all are. */
function nearestTo(timeMs: number, commits: readonly CommitPoint[], from: number, to: number): number {
  let [low, high] = [from + 1, to - 1];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (commits[middle]!.timeMs < timeMs) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Reads runs of a timeline; `readerAt` gives its values as of an LSN. */
export function clogCommits(timeline: TimelineView, readerAt: (lsn: Lsn) => ValueReader): ReadCommits {
  return async (lsn) => {
    let from = 0;
    for (const { prefix, block } of await newestPages(readerAt(lsn))) {
      const [chain] = await gather(withoutVersions(timeline), prefix, block, 1, lsn + 1);
      const commits = commitsOf(chain!);
      from = isImage(chain!, chain!.kinds.length - 1) ? chain!.lsns.at(-1)! : 0;
      // A page without any has just been begun: the one before tells more.
      if (commits.length > 0) return { from, commits };
    }
    return { from, commits: [] };
  };
}

/** The page that the transactions of this moment are on, and the one before it. */
async function newestPages(reader: ValueReader): Promise<Key[]> {
  const directory = slruDirectoryKey(slruKind.clog);
  const segments = decodeSegments(await reader.getImage(directory.prefix, directory.block)).sort((a, b) => b - a);
  const pages: Key[] = [];
  for (const segment of segments.slice(0, 2)) {
    const prefix = slruPrefix(slruKind.clog, segment);
    const size = Math.max(0, decodeSize(await reader.getImage(prefix, sizeBlock), prefix));
    for (let block = size - 1; block >= 0 && pages.length < 2; block--) pages.push({ prefix, block });
  }
  return pages;
}

/** A kept version would cut the run short. */
function withoutVersions(timeline: TimelineView): TimelineView {
  const { id, layers, ancestor, readers, counters } = timeline;
  const versions = new PageVersions(new ClockCache(1));
  return { id, layers, ancestor, readers, versions, counters, waitLsn: (lsn, signal) => timeline.waitLsn(lsn, signal) };
}

const isImage = ({ kinds }: ValueChain, at: number) => kinds[at] === valueKind.image;

function commitsOf(chain: ValueChain): CommitPoint[] {
  const commits: CommitPoint[] = [];
  for (let i = chain.values.length - 1; i >= 0; i--) {
    const value = chain.values[i]!;
    const lsn = chain.lsns[i]! as Lsn;
    if (isImage(chain, i) || value[0] !== patchType.xactStatus || value[1] !== committed || value.length < 10) continue;
    commits.push({ lsn, timeMs: timeOf(value, 2) });
  }
  return commits;
}

/** In the patch: the transaction did not abort. */
const committed = 1;

/** A TimestampTz, in milliseconds since the Unix epoch. */
function timeOf(bytes: Uint8Array, offset: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + offset, 8);
  return (view.getInt32(4, true) * 4294967296 + view.getUint32(0, true)) / 1000 + postgresEpochMs;
}
