/**
 * The contract suites over IndexedDB, in a worker in Chromium: the object store, the safekeeper's storage, a timeline's pages on the object store, and
 * pages through the cache of server pages. Every fixture has a database of its own.
 */
import { deleteDB } from 'idb';
import { expect, it } from 'vitest';
import { yieldTurn } from '../../../browser/local/yield-turn.ts';
import { databaseName, openTabDatabase, type TabDatabase } from '../../../browser/stores/database.ts';
import { IdbObjectStore } from '../../../browser/stores/idb-object-store.ts';
import { IdbSafekeeperStorage } from '../../../browser/stores/idb-safekeeper-storage.ts';
import { PageCache } from '../../../browser/stores/page-cache.ts';
import { createTenantTemplate } from '../../../engine/basebackup/tenant-template.ts';
import type { NodeId } from '../../../engine/model/ids.ts';
import { Safekeeper } from '../../../engine/safekeeper/safekeeper.ts';
import type { PageService, TenantTemplate, WalService } from '../../../engine/services.ts';
import { runObjectStoreContract } from '../../contracts/object-store.ts';
import { type PageServiceFixture, runPageServiceContract } from '../../contracts/page-service.ts';
import { runWalServiceContract } from '../../contracts/wal-service.ts';
import { hostClock, silentLog } from '../../support/any-host.ts';
import { type TimelineKind, timelineFixture } from '../../support/timeline-fixture.ts';
import { serveCalls } from './calls.ts';
import { runTests } from './suite.ts';

let nextDatabase = 1;

async function freshDatabase(): Promise<{ database: TabDatabase; remove: () => Promise<void> }> {
  const name = `contract-${nextDatabase++}`;
  const database = await openTabDatabase(name);
  const remove = async () => {
    database.close();
    await deleteDB(databaseName(name));
  };
  return { database, remove };
}

runObjectStoreContract('IndexedDB', async () => {
  const { database, remove } = await freshDatabase();
  return { store: await IdbObjectStore.open(database), close: remove };
});

runWalServiceContract('IndexedDB', async () => {
  const { database, remove } = await freshDatabase();
  const start = () =>
    new Safekeeper({ nodeId: 1 as NodeId, storage: new IdbSafekeeperStorage({ database }), log: silentLog });
  let safekeeper = start();
  const service: WalService = {
    nodeId: 1 as NodeId,
    connectProposer: (id) => safekeeper.connectProposer(id),
    readWal: (id, startLsn, signal, term) => safekeeper.readWal(id, startLsn, signal, term),
    getStatus: (id) => safekeeper.getStatus(id),
    reportConsistent: (id, lsn) => safekeeper.reportConsistent(id, lsn),
  };
  return {
    service,
    async restart() {
      await safekeeper.close();
      safekeeper = start();
    },
    async close() {
      await safekeeper.close();
      await remove();
    },
  };
});

let template: TenantTemplate;

/** Without the databases that only new databases are made from: the fixture has nothing to do with them. */
function smaller(whole: TenantTemplate): TenantTemplate {
  return { ...whole, files: whole.files.filter(({ path }) => !/^base\/[14](\/|$)/.test(path)) };
}

async function overIndexedDb(kind: TimelineKind, isCached: boolean): Promise<PageServiceFixture> {
  const { database, remove } = await freshDatabase();
  const store = await IdbObjectStore.open(database);
  const cache = await PageCache.open({ database, clock: hostClock, log: silentLog });
  const wrap = (service: PageService) => (isCached ? cache.service(service.id, () => service) : service);
  const fixture = await timelineFixture({ kind, template, store, yieldTurn, wrap });
  return {
    ...fixture,
    async close() {
      await fixture.close();
      await cache.idle();
      await remove();
    },
  };
}

runPageServiceContract('a timeline in IndexedDB', () => overIndexedDb('files', false));
runPageServiceContract('a branch in IndexedDB', () => overIndexedDb('branch', false));
runPageServiceContract('through the page cache', () => overIndexedDb('files', true));
runPageServiceContract('a branch through the page cache', () => overIndexedDb('remote', true));

/** Tests that must fail: that this harness hears of every kind of failure. */
function collectFailures(): void {
  it('a value', () => expect(1).toBe(2));
  it('bytes', () => expect(new Uint8Array([1, 2])).toEqual(new Uint8Array([1, 3])));
  it('a rejection that does not come', async () =>
    expect(Promise.resolve(1)).rejects.toMatchObject({ kind: 'invalid' }));
  it('another rejection', async () =>
    expect(Promise.reject({ kind: 'corrupt' })).rejects.toMatchObject({ kind: 'invalid' }));
  it('a throw', () => {
    throw new Error('thrown');
  });
  it('a match', () => expect({ text: 'abc' }).toMatchObject({ text: expect.stringContaining('x') }));
}

serveCalls({
  fail() {
    collectFailures();
    return runTests();
  },
  async run() {
    template = smaller(await createTenantTemplate());
    return runTests();
  },
});
