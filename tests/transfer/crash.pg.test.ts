/**
 * A receiver that dies at any moment of an import: real layers, a store that stops working after each of its operations in turn.
 *
 * Must hold: after a restart the timeline is as it was before the import or as it is after it; pushed again it is whole, and nothing that no index names stays.
 * Once for a timeline that is new and once for one that goes on.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { parseLayerFile, parseLayerName } from '../../engine/layers/layer-name.ts';
import { newTenantId, newTimelineId, nodeId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { ObjectStore, TenantTemplate, ValueReader, WalService } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { type IndexPart, timelineFolder } from '../../engine/timeline/index-part.ts';
import { Pageserver } from '../../engine/timeline/pageserver.ts';
import { pushTimeline } from '../../engine/transfer/push-timeline.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { CapturedWal } from '../support/captured-wal.ts';
import { testTemplate } from '../support/test-template.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

let template: TenantTemplate;
let redo: PostgresRedo;
let source: Pageserver;
let id: TenantTimelineId;
/** The source as it was first, and with more. */
let first: IndexPart;
let second: IndexPart;

beforeAll(async () => {
  template = await testTemplate();
  redo = await PostgresRedo.create({ template, artefacts: await loadPGliteArtefacts(), log: silentLog });
  id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
  const wal = new CapturedWal();
  source = await openPageserver(new MemoryObjectStore(), [wal]);
  await source.createTenant(id.tenantId);
  await source.createTimeline(id, null);
  const pages = await source.openPages(id);
  const backup = await pages.getBasebackup(null);
  const at = { requestLsn: backup.lsn, notModifiedSince: backup.lsn };
  const reader: ValueReader = {
    getImage: async (prefix, block) => (await pages.getImages(at, [{ prefix, block }]))[0] ?? null,
  };
  const pg = await bootDirectory(await dataDirectory(backup, reader), keepWal);
  await pg.exec('create table t as select i, md5(i::text) from generate_series(1, 200) i; select pg_switch_wal()');
  const middle = await currentLsn(pg);
  await pg.exec("insert into t select i, 'more' from generate_series(201, 300) i");
  const end = await currentLsn(pg);
  await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
  const bytes = readPgWal(pg, backup.lsn, end);
  await pg.close();
  const feed = async (from: Lsn, to: Lsn): Promise<IndexPart> => {
    wal.append(id, from, bytes.slice(from - backup.lsn, to - backup.lsn));
    await source.catchUp(id, to);
    await source.compact(id, 'images');
    return source.exportTimeline(id);
  };
  first = await feed(backup.lsn, middle);
  second = await feed(middle, end);
});
afterAll(async () => {
  await source?.close();
  await redo?.close();
});

function openPageserver(store: ObjectStore, wal: readonly WalService[]): Promise<Pageserver> {
  return Pageserver.open({
    nodeId: nodeId(1),
    store,
    wal,
    // Outlives the pageservers that it serves.
    redo: { redoPage: (request) => redo.redoPage(request), ready: () => redo.ready(), close: async () => {} },
    template: async () => template,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
    yieldTurn: () => turn(),
  });
}

/** Stops working after `count` changes: the last one is done and its answer is lost. */
function dying(store: ObjectStore, count: number): ObjectStore & { readonly left: () => number } {
  let left = count;
  const died = () => new PageliteError('closed', 'the process is dead');
  const change = async <T>(work: () => Promise<T>): Promise<T> => {
    if (left <= 0) throw died();
    const done = await work();
    if (--left === 0) throw died();
    return done;
  };
  return {
    put: (key, bytes, condition) => change(() => store.put(key, bytes, condition)),
    delete: (key) => change(() => store.delete(key)),
    get: (key, range) => store.get(key, range),
    head: (key) => store.head(key),
    list: (prefix) => store.list(prefix),
    listFolders: (folder) => store.listFolders(folder),
    left: () => left,
  };
}

const push = (to: Pageserver, part: IndexPart) =>
  pushTimeline({ source, id, part, peer: to.imports, target: id, base: null, clock: nodeClock });

async function expectWhole(to: Pageserver, store: ObjectStore, part: IndexPart): Promise<void> {
  const pages = await to.openPages(id);
  expect((await pages.getStatus()).lastRecordLsn).toBe(part.diskConsistentLsn);
  await pages.getBasebackup(null);
  // Images can be lost.
  const names = part.layers.map(({ name }) => name).filter((name) => parseLayerName(name)!.kind === 'delta');
  const folder = timelineFolder(id);
  const files = (await store.list(folder)).map(({ key }) => layerOf(key.slice(folder.length)));
  expect(files).toEqual(expect.arrayContaining(names));
  expect(files.filter((name) => name.includes('.part-'))).toEqual([]);
}

const layerOf = (file: string) => parseLayerFile(file)?.name ?? file;

const moments: readonly [string, () => IndexPart | null, () => IndexPart][] = [
  ['a timeline that is new', () => null, () => first],
  ['a timeline that goes on', () => first, () => second],
];

describe.each(moments)('an import of %s', (_what, earlier, later) => {
  it('may be cut off after each change of the store', async () => {
    let crashes = 0;
    for (let count = 1; ; count++) {
      const store = new MemoryObjectStore();
      const safekeeper = new Safekeeper({ nodeId: nodeId(1), storage: new MemorySafekeeperStorage(), log: silentLog });
      const setUp = await openPageserver(store, [safekeeper]);
      await setUp.createTenant(id.tenantId);
      const start = earlier();
      if (start !== null) await push(setUp, start);
      await setUp.close();
      const disk = dying(store, count);
      const live = async () => {
        const doomed = await openPageserver(disk, [safekeeper]);
        await push(doomed, later()).finally(() => doomed.close());
      };
      const failure: unknown = await live().catch((error: unknown) => error);
      const again = await openPageserver(store, [safekeeper]);
      if (disk.left() > 0) {
        expect(failure).toBeUndefined();
        await expectWhole(again, store, later());
        await again.close();
        await safekeeper.close();
        break;
      }
      crashes++;
      const listed = await again.listTimelines(id.tenantId);
      if (start === null && listed.length === 0) {
        await expect(again.openPages(id)).rejects.toMatchObject({ kind: 'notFound' });
      } else {
        const { lastRecordLsn } = await (await again.openPages(id)).getStatus();
        expect([start?.diskConsistentLsn, later().diskConsistentLsn]).toContain(lastRecordLsn);
        await (await again.openPages(id)).getBasebackup(null);
      }
      await push(again, later());
      await expectWhole(again, store, later());
      await again.close();
      const reopened = await openPageserver(store, [safekeeper]);
      await expectWhole(reopened, store, later());
      await reopened.close();
      await safekeeper.close();
    }
    // The record, each layer and some parts, the index, the record again.
    expect(crashes).toBeGreaterThan(3);
  });
});
