/**
 * The history of commits is some of the real ones, with their exact LSNs and times, spread over time, at a cost that does not grow with the history.
 *
 * Attacked by random histories with idle times and bursts, stored whole every few commits; checked against the plain list of commits.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clogValueBytes, xactStatusPatch } from '../../engine/ingest/patch.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import { encodeSegments } from '../../engine/ingest/small-directories.ts';
import { ClockCache } from '../../engine/layers/clock-cache.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { sizeBlock, slruDirectoryKey, slruKind, slruPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import {
  type CommitPoint,
  type CommitRun,
  clogCommits,
  spread,
  spreadCommits,
} from '../../engine/timeline/commit-history.ts';
import { PageVersions } from '../../engine/timeline/page-versions.ts';
import { Timeline } from '../../engine/timeline/timeline.ts';
import { ModelRedo } from '../support/model-redo.ts';
import { TestClock } from '../support/test-clock.ts';
import { ValueMap } from '../support/value-map.ts';

const start = 0x1000 as Lsn;
const firstMs = Date.UTC(2026, 0, 1);
const epochMs = Date.UTC(2000, 0, 1);

/** Steps of (bytes of WAL / 8, milliseconds). */
function commitsOf(steps: readonly (readonly [number, number])[]): CommitPoint[] {
  let [lsn, timeMs] = [start as number, firstMs];
  return steps.map(([words, ms]) => {
    lsn += words * 8;
    timeMs += ms;
    return { lsn: lsn as Lsn, timeMs };
  });
}

/** Runs as a clog page has them that is stored whole after every `wholeAfter` commits; counts what was read. */
function reader(commits: readonly CommitPoint[], wholeAfter: number) {
  const asked: Lsn[] = [];
  const read = async (lsn: Lsn): Promise<CommitRun> => {
    asked.push(lsn);
    const until = commits.filter((commit) => commit.lsn <= lsn);
    const whole = Math.floor(until.length / wholeAfter) * wholeAfter;
    return { from: until[whole - 1]?.lsn ?? 0, commits: until.slice(whole) };
  };
  return { asked, read };
}

const someSteps = fc.array(
  fc.tuple(fc.integer({ min: 1, max: 3000 }), fc.oneof(fc.integer({ min: 0, max: 20 }), fc.constant(3_600_000))),
  { maxLength: 300 },
);

describe('commits spread over time', () => {
  it('are real ones, in order, as many as wanted at most, and cost a bounded number of reads', async () => {
    await fc.assert(
      fc.asyncProperty(
        someSteps,
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 1, max: 40 }),
        async (steps, countMax, wholeAfter) => {
          const commits = commitsOf(steps);
          const { asked, read } = reader(commits, wholeAfter);
          const end = ((commits.at(-1)?.lsn ?? start) + 800) as Lsn;
          const found = await spreadCommits(read, start, end, null, countMax);
          expect(found.length).toBeLessThanOrEqual(countMax);
          for (const commit of found) expect(commits).toContainEqual(commit);
          expect(found.map(({ lsn }) => lsn)).toEqual([...new Set(found.map(({ lsn }) => lsn))].sort((a, b) => a - b));
          expect(asked.length).toBeLessThanOrEqual(48);
          for (const lsn of asked) expect(lsn > start && lsn <= end).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('are all of a short history, for one read', async () => {
    const commits = commitsOf(Array.from({ length: 90 }, (_, i) => [i + 1, i] as const));
    const { asked, read } = reader(commits, 1000);
    expect(await spreadCommits(read, start, (commits.at(-1)!.lsn + 8) as Lsn, null, 100)).toEqual(commits);
    expect(asked.length).toBe(1);
  });

  it('find a burst long ago, though nearly all WAL is newer', async () => {
    const old = Array.from({ length: 5 }, () => [2, 10] as const);
    const load = Array.from({ length: 20_000 }, () => [40, 0] as const);
    const commits = commitsOf([...old, [4, 86_400_000], ...load]);
    const found = await spreadCommits(reader(commits, 1024).read, start, commits.at(-1)!.lsn, null, 100);
    expect(found.filter(({ timeMs }) => timeMs < firstMs + 1000)).toEqual(commits.slice(0, 5));
  });

  it('do not go outside of (start, end]', async () => {
    const commits = commitsOf(Array.from({ length: 20 }, () => [10, 5] as const));
    const found = await spreadCommits(
      reader(commits, 1000).read,
      commits[4]!.lsn,
      commits[9]!.lsn,
      commits[4]!.timeMs,
      100,
    );
    expect(found).toEqual(commits.slice(5, 10));
    expect(await spreadCommits(reader(commits, 1000).read, start, start, null, 100)).toEqual([]);
  });

  it('leave the first and the last in when they are thinned, and the edges of idle times', () => {
    const commits = commitsOf([...Array.from({ length: 100 }, () => [1, 1] as const), [1, 10_000], [1, 1]]);
    const found = spread(commits, 5);
    expect(found).toHaveLength(5);
    expect(found[0]).toEqual(commits[0]);
    expect(found.at(-1)).toEqual(commits.at(-1));
    expect(found).toContainEqual(commits[100]);
    expect(spread(commits, 1)).toEqual([commits.at(-1)]);
  });
});

describe('a timeline', () => {
  const prefix = slruPrefix(slruKind.clog, 0);

  function timelineWith(commits: readonly CommitPoint[], wholeAfter: number, pageOf: (i: number) => number) {
    const versions = new PageVersions(new ClockCache(1e9));
    const timeline = new Timeline(
      {
        id: { tenantId: tenantId('a1'.repeat(16)), timelineId: timelineId('b2'.repeat(16)) },
        systemIdentifier: 1n,
        startLsn: start,
        ancestorId: null,
        ancestor: null,
        diskConsistentLsn: start,
        prevRecordLsn: start,
        gcCutoffLsn: start,
        files: [],
      },
      { redo: new ModelRedo(), versions, clock: new TestClock(), waitLsnTimeoutMs: 1000, openChainLengthMax: 512 },
    );
    const values = new ValueMap();
    const directory = slruDirectoryKey(slruKind.clog);
    const begin = (start + 8) as Lsn;
    values.putImage(directory.prefix, directory.block, begin, encodeSegments([0]));
    values.putImage(prefix, sizeBlock, begin, encodeSize(2));
    for (const block of [0, 1]) timeline.putImage(prefix, block, begin, new Uint8Array(clogValueBytes));
    commits.forEach(({ lsn, timeMs }, i) => {
      const time = new Uint8Array(8);
      new DataView(time.buffer).setBigInt64(0, BigInt((timeMs - epochMs) * 1000), true);
      // Aborts are no commits.
      timeline.putPatch(prefix, pageOf(i), (lsn - 8) as Lsn, xactStatusPatch(2, time, [2 * i]));
      timeline.putPatch(prefix, pageOf(i), lsn, xactStatusPatch(1, time, [2 * i + 1]));
      if ((i + 1) % wholeAfter === 0) timeline.putImage(prefix, pageOf(i), lsn, new Uint8Array(clogValueBytes));
    });
    timeline.advance(commits.at(-1)!.lsn, start);
    return { timeline, versions, read: clogCommits(timeline, (lsn) => values.reader(lsn)) };
  }

  it('has the run of commits down to where its clog page was stored whole, whatever is cached', async () => {
    const commits = commitsOf(Array.from({ length: 100 }, (_, i) => [4, i] as const));
    const { versions, read } = timelineWith(commits, 30, () => 1);
    versions.keep(prefix, 1, commits[97]!.lsn, new Uint8Array(clogValueBytes));
    expect(await read(commits.at(-1)!.lsn)).toEqual({ from: commits[89]!.lsn, commits: commits.slice(90) });
    expect(await read(commits[70]!.lsn)).toEqual({ from: commits[59]!.lsn, commits: commits.slice(60, 71) });
    expect(await read((commits[70]!.lsn - 1) as Lsn)).toEqual({
      from: commits[59]!.lsn,
      commits: commits.slice(60, 70),
    });
  });

  it('goes to the page before while the newest has no commit', async () => {
    const commits = commitsOf(Array.from({ length: 10 }, () => [4, 1] as const));
    const { read } = timelineWith(commits, 1000, (i) => (i < 6 ? 0 : 1));
    expect((await read(commits[5]!.lsn)).commits).toEqual(commits.slice(0, 6));
    expect((await read(commits[9]!.lsn)).commits).toEqual(commits.slice(6));
  });
});
