/**
 * The moment at which layers from elsewhere become a timeline's history, against computes that start just then. Real safekeepers, in memory.
 *
 * Must hold: WAL that has begun anywhere is seen; whoever was on the way to be elected is not, afterwards; whoever is elected later begins where the history
 * ends by then. Attacked by a compute whose election is held up at each place where the fence can come.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newTenantId, newTimelineId, nodeId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { createChannelPair } from '../../engine/remote/channel-pair.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { WalService } from '../../engine/services.ts';
import { fenceWal } from '../../engine/transfer/wal-fence.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const base = 0x2000000 as Lsn;
const moved = 0x2345678 as Lsn;

let id: TenantTimelineId;
let nodes: Safekeeper[];
let drivers: ProposerDriver[];

beforeEach(() => {
  id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
  nodes = [1, 2, 3].map(
    (n) => new Safekeeper({ nodeId: nodeId(n), storage: new MemorySafekeeperStorage(), log: silentLog }),
  );
  drivers = [];
});
afterEach(async () => {
  for (const driver of drivers) driver.close();
  for (const node of nodes) await node.close();
});

const fence = (services: readonly WalService[] = nodes) =>
  fenceWal(id, { services, clock: nodeClock, random: nodeRandom, log: silentLog });

async function elect(startLsnIfEmpty: () => Promise<Lsn>): Promise<ProposerDriver> {
  const driver = await ProposerDriver.elect({
    id,
    services: nodes,
    startLsnIfEmpty,
    systemIdentifier: syntheticSystemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
  drivers.push(driver);
  return driver;
}

/** A safekeeper that does not answer any more: its connections end. */
const away = (node: WalService): WalService => ({
  nodeId: node.nodeId,
  connectProposer() {
    const [near, far] = createChannelPair();
    far.close();
    return near;
  },
  readWal: (...args) => node.readWal(...args),
  getStatus: (timeline) => node.getStatus(timeline),
  reportConsistent: (...args) => node.reportConsistent(...args),
});

describe('a timeline without WAL', () => {
  it('can be fenced as often as one likes, and a compute begins where it is told', async () => {
    expect(await fence()).toEqual({ hasWal: false });
    expect(await fence()).toEqual({ hasWal: false });
    const driver = await elect(async () => moved);
    expect(driver.startLsn).toBe(moved);
    for (const node of nodes.slice(0, 2)) expect((await node.getStatus(id))!.term).toBeGreaterThan(2);
  });

  it('asks where it ends once the vote is won, in every term anew', async () => {
    let end = base;
    let asked = 0;
    const driver = await elect(async () => {
      asked++;
      const told = end;
      if (asked === 1) {
        // The push comes while the answer is on its way.
        expect(await fence()).toEqual({ hasWal: false });
        end = moved;
      }
      return told;
    }).catch((error: unknown) => error);
    // That compute was fenced, or was elected in a later term and asked again.
    if (driver instanceof ProposerDriver) expect([driver.startLsn, asked > 1]).toEqual([moved, true]);
    else expect(driver).toMatchObject({ kind: 'fenced' });
    for (const node of nodes) expect((await node.getStatus(id))?.startLsn ?? 0).not.toBe(base);
    expect((await elect(async () => end)).startLsn).toBe(moved);
  });

  it('is not fenced without a majority', async () => {
    await expect(fence([nodes[0]!, away(nodes[1]!), away(nodes[2]!)])).rejects.toMatchObject({
      kind: 'unavailable',
      message: expect.stringMatching(/1 of 3/),
    });
    expect(await fence([nodes[0]!, nodes[1]!, away(nodes[2]!)])).toEqual({ hasWal: false });
    expect(await fence([])).toEqual({ hasWal: false });
  });
});

describe('WAL that has begun', () => {
  it('is seen, whichever safekeepers answer, and its compute is fenced', async () => {
    const driver = await elect(async () => base);
    expect(await fence([nodes[0]!, nodes[1]!, away(nodes[2]!)])).toEqual({ hasWal: true });
    const record = new SyntheticWal(base).next(new Uint8Array(10));
    driver.append(record.startLsn, record.bytes);
    await expect(driver.waitCommit(record.endLsn)).rejects.toMatchObject({ kind: 'fenced' });
  });
});
