/**
 * A branch's history goes down its ancestors, each up to where the next one branched off, and ends where one cannot be read; a point of it is found on the
 * timeline that has it.
 *
 * Modelled: the storage, as lists of commits.
 */
import { describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantTimelineId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { spread } from '../../engine/timeline/commit-history.ts';
import { historyOf, placeInHistory } from '../../server/control-plane/branch-history.ts';
import type { CommitHistory, StorageApi, TimelineInfo } from '../../server/control-plane/storage-api.ts';

const tenant = tenantId('a1'.repeat(16));
const startMs = Date.UTC(2026, 0, 1);

interface Line {
  readonly id: string;
  readonly ancestor?: { readonly id: string; readonly lsn: number };
  readonly commits: readonly number[];
  readonly error?: PageliteError;
}

const idOf = (short: string): TimelineId => timelineId(short.repeat(16));
const at = (short: string): TenantTimelineId => ({ tenantId: tenant, timelineId: idOf(short) });
/** A commit's time is its LSN, in seconds. */
const timeOf = (lsn: number) => startMs + lsn * 1000;
const point = (lsn: number) => ({ lsn: lsn as Lsn, timeMs: timeOf(lsn) });

function storageOf(lines: readonly Line[]): StorageApi {
  const find = (id: TenantTimelineId): Line => {
    const line = lines.find(({ id: short }) => idOf(short) === id.timelineId);
    if (!line) throw new PageliteError('notFound', `no timeline ${id.timelineId}`);
    return line;
  };
  const startOf = ({ ancestor }: Line) => ancestor?.lsn ?? 8;
  const infoOf = (line: Line): TimelineInfo => ({
    timelineId: idOf(line.id),
    ancestor: line.ancestor ? { timelineId: idOf(line.ancestor.id), lsn: line.ancestor.lsn as Lsn } : null,
    startLsn: startOf(line) as Lsn,
    lastRecordLsn: (line.commits.at(-1) ?? startOf(line)) as Lsn,
    prevRecordLsn: null,
    logicalBytes: 0,
    layerBytes: 0,
    isArchived: false,
    broken: null,
  });
  const unused = () => Promise.reject(new Error('not asked for'));
  return {
    listTenants: unused,
    createTenant: unused,
    branchNames: unused,
    setBranchNames: unused,
    createTimeline: unused,
    deleteTimeline: unused,
    listTimelines: async () => lines.map(infoOf),
    getTimeline: async (id) => infoOf(find(id)),
    getCommitLsn: async () => null,
    findLsnByTimestamp: async (id, timestampMs) => {
      const line = find(id);
      const before = line.commits.filter((lsn) => timeOf(lsn) <= timestampMs);
      if (before.length === 0) return { kind: 'past', lsn: startOf(line) as Lsn };
      return { kind: before.length === line.commits.length ? 'future' : 'present', lsn: before.at(-1)! as Lsn };
    },
    commitHistory: async (id, until, countMax): Promise<CommitHistory> => {
      const line = find(id);
      if (line.error) throw line.error;
      const commits = line.commits.filter((lsn) => until === null || lsn <= until).map(point);
      const start = startOf(line);
      return {
        start: { lsn: start as Lsn, timeMs: line.ancestor ? timeOf(start) : null },
        end: commits.at(-1) ?? { lsn: start as Lsn, timeMs: null },
        commits: spread(commits, countMax),
      };
    },
  };
}

const lines: Line[] = [
  { id: 'aa', commits: [16, 24, 32, 40] },
  { id: 'bb', ancestor: { id: 'aa', lsn: 32 }, commits: [48, 56, 64] },
  { id: 'cc', ancestor: { id: 'bb', lsn: 56 }, commits: [72] },
];

describe('the history of a branch', () => {
  it('is its own and that of its ancestors up to where it left them', async () => {
    const { start, end, commits } = await historyOf(storageOf(lines), at('cc'));
    expect(start).toEqual({ lsn: formatLsn(8 as Lsn), at: null });
    expect(end.lsn).toBe(formatLsn(72 as Lsn));
    expect(commits.map(({ lsn }) => lsn)).toEqual([16, 24, 32, 48, 56, 72].map((lsn) => formatLsn(lsn as Lsn)));
    expect(commits[0]!.at).toBe(new Date(timeOf(16)).toISOString());
  });

  it('has a bounded number of points, the first and the last among them', async () => {
    const many = Array.from({ length: 5000 }, (_, i) => 16 + i * 8);
    const last = many.at(-1)!;
    const child: Line = { id: 'bb', ancestor: { id: 'aa', lsn: last }, commits: many.map((lsn) => lsn + last) };
    const { commits } = await historyOf(storageOf([{ id: 'aa', commits: many }, child]), at('bb'));
    expect(commits).toHaveLength(200);
    expect([commits[0]!.lsn, commits.at(-1)!.lsn]).toEqual([formatLsn(16 as Lsn), formatLsn((2 * last) as Lsn)]);
  });

  it('begins where an ancestor is damaged or elsewhere; another failure is one', async () => {
    const from = async (changed: readonly Line[]) => (await historyOf(storageOf(changed), at('cc'))).start.lsn;
    const failing = (error: PageliteError) => lines.map((line) => (line.id === 'aa' ? { ...line, error } : line));
    expect(await from(failing(new PageliteError('corrupt', 'index_part.json')))).toBe(formatLsn(32 as Lsn));
    expect(await from(lines.slice(1))).toBe(formatLsn(32 as Lsn));
    await expect(from(failing(new PageliteError('unavailable', 'gone')))).rejects.toThrow('gone');
    const own = lines.map((line) => ({ ...line, error: new PageliteError('corrupt', `of ${line.id}`) }));
    await expect(from(own)).rejects.toThrow('of cc');
    await expect(historyOf(storageOf([]), at('cc'))).rejects.toMatchObject({ kind: 'notFound' });
  });
});

describe('a point of the history', () => {
  const config = {
    branches: lines.map(({ id }) => ({ name: `branch-${id}`, tenantId: tenant, timelineId: idOf(id) })),
  } as unknown as Parameters<typeof placeInHistory>[1];
  const find = (place: Parameters<typeof placeInHistory>[4]) =>
    placeInHistory(storageOf(lines), config, at('cc'), 'branch-cc', place);

  it.each([
    [72, 'cc'],
    [56, 'cc'],
    [48, 'bb'],
    [32, 'bb'],
    [24, 'aa'],
    [8, 'aa'],
  ])('LSN %d is on %s', async (lsn, line) => {
    expect(await find({ lsn: lsn as Lsn })).toEqual({ id: at(line), branch: `branch-${line}`, lsn });
  });

  it.each([
    [72, 'cc', 72],
    [60, 'bb', 56],
    [32, 'aa', 32],
    [17, 'aa', 16],
  ])('the time of %d is on %s at %d', async (time, line, lsn) => {
    expect(await find({ timestampMs: timeOf(time) })).toEqual({ id: at(line), branch: `branch-${line}`, lsn });
  });

  it('is not before the beginning, after the end or in the future', async () => {
    await expect(find({ lsn: 0 as Lsn })).rejects.toThrow(/before the start of branch "branch-aa"/);
    await expect(find({ lsn: 80 as Lsn })).rejects.toThrow(/past the end of branch "branch-cc"/);
    await expect(find({ timestampMs: timeOf(9) })).rejects.toThrow(/branch "branch-aa" has no commits/);
    await expect(find({ timestampMs: Date.now() + 3_600_000 })).rejects.toThrow(/in the future/);
  });
});
