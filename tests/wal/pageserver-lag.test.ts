/** When a writer that is ahead of the pageserver waits, and goes on: by the clock and LSNs of a pageserver whose answers are given. */
import { expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { TimelineStatus } from '../../engine/services.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { PageserverLag } from '../../smgr-plugin/wal/pageserver-lag.ts';

const id: TenantTimelineId = { tenantId: tenantId('1'.repeat(32)), timelineId: timelineId('2'.repeat(32)) };
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

function lagOf(lagBytesMax: number) {
  const state = { ingested: 1000, isAway: false, asked: 0, room: 0, wake: () => {} };
  const stop = new AbortController();
  const lag = new PageserverLag(1000 as Lsn, {
    pages: {
      id,
      async getStatus() {
        state.asked++;
        if (state.isAway) throw new PageliteError('unavailable', 'away');
        return { lastRecordLsn: state.ingested as Lsn, stopped: null } as TimelineStatus;
      },
    },
    clock: { now: () => 0, sleep: () => new Promise<void>((resolve) => (state.wake = resolve)) },
    log: silentLog,
    lagBytesMax,
    onRoom: () => state.room++,
    signal: stop.signal,
  });
  const poll = async () => {
    state.wake();
    for (let i = 0; i < 5; i++) await turn();
  };
  return { state, lag, poll };
}

it('asks from half of the bound on, and holds nobody up whose pageserver keeps up', async () => {
  const { state, lag, poll } = lagOf(100);
  expect(lag.mustWait(1049 as Lsn)).toBe(false);
  expect(state.asked).toBe(0);
  state.ingested = 1060;
  expect(lag.mustWait(1060 as Lsn)).toBe(false);
  await poll();
  expect(state.asked).toBe(1);
  expect(lag.mustWait(1155 as Lsn)).toBe(false);
  expect(state.room).toBe(0);
});

it('holds the writer at the bound, says once that there is room, and counts from what is known of one that is away', async () => {
  const { state, lag, poll } = lagOf(100);
  state.isAway = true;
  expect(lag.mustWait(1099 as Lsn)).toBe(false);
  await poll();
  expect(lag.mustWait(1100 as Lsn)).toBe(true);
  await poll();
  await poll();
  expect(state.room).toBe(0);
  state.isAway = false;
  await poll();
  expect(state.room).toBe(0);
  state.ingested = 1030;
  await poll();
  expect(state.room).toBe(1);
  expect(lag.mustWait(1129 as Lsn)).toBe(false);
  expect(lag.mustWait(1130 as Lsn)).toBe(true);
  state.ingested = 1130;
  await poll();
  expect(state.room).toBe(2);
  await poll();
  expect(lag.mustWait(1131 as Lsn)).toBe(false);
});

it('without a bound nothing is asked', () => {
  const { state, lag } = lagOf(0);
  expect(lag.mustWait(9e12 as Lsn)).toBe(false);
  expect(state.asked).toBe(0);
});
