/** The WalService contract over a Safekeeper in the same thread, its storage in memory. */
import { expect, it } from 'vitest';
import { messageOf } from '../../engine/errors.ts';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage, type TimelineStorage } from '../../engine/safekeeper/storage.ts';
import type { WalService } from '../../engine/services.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { runWalServiceContract } from '../contracts/wal-service.ts';
import { syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const serviceOf = (safekeeper: () => Safekeeper): WalService => ({
  nodeId: 1 as NodeId,
  connectProposer: (id) => safekeeper().connectProposer(id),
  readWal: (id, startLsn, signal, term) => safekeeper().readWal(id, startLsn, signal, term),
  getStatus: (id) => safekeeper().getStatus(id),
  reportConsistent: (id, lsn) => safekeeper().reportConsistent(id, lsn),
});

runWalServiceContract('in process, in memory', async () => {
  const storage = new MemorySafekeeperStorage();
  const start = () => new Safekeeper({ nodeId: 1 as NodeId, storage, log: silentLog });
  let safekeeper = start();
  return {
    service: serviceOf(() => safekeeper),
    async restart() {
      await safekeeper.close();
      safekeeper = start();
    },
    close: () => safekeeper.close(),
  };
});

/** Tells before it stores the control file of a timeline. */
class ToldStorage extends MemorySafekeeperStorage {
  beforeControl: () => Promise<void> = async () => {};

  override async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    const storage = await super.createTimeline(id);
    const replace = storage.replaceFile.bind(storage);
    storage.replaceFile = async (name, bytes) => {
      await this.beforeControl();
      return replace(name, bytes);
    };
    return storage;
  }
}

it('a log that is just beginning has no WAL yet for its readers, whatever of it is stored already', async () => {
  const storage = new ToldStorage();
  const safekeeper = new Safekeeper({ nodeId: 1 as NodeId, storage, log: silentLog });
  const id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
  const startLsn = 0x1000028 as Lsn;
  const stop = new AbortController();
  const reads: Promise<string>[] = [];
  storage.beforeControl = async () => {
    const read = safekeeper.readWal(id, startLsn, stop.signal)[Symbol.asyncIterator]().next();
    reads.push(read.then(({ done }) => (done ? 'followed' : 'read'), messageOf));
    for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => setImmediate(resolve));
  };
  const driver = await ProposerDriver.elect({
    id,
    services: [serviceOf(() => safekeeper)],
    startLsnIfEmpty: startLsn,
    systemIdentifier: syntheticSystemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
    signal: stop.signal,
  });
  await expect.poll(async () => (await safekeeper.getStatus(id))?.flushLsn).toBe(startLsn);
  stop.abort();
  const heard = await Promise.all(reads);
  expect(heard.length).toBeGreaterThan(1);
  for (const one of heard) expect(one).toMatch(/has no WAL here yet|followed/);
  expect(heard.filter((one) => one !== 'followed')).not.toEqual([]);
  driver.close();
  await safekeeper.close();
});
