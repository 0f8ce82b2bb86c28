/**
 * Every page that a compute has written is the page that the pageserver rebuilds at the same LSN with empty caches, under Postgres's own rm_mask;
 * and every relation has the same size there, or the compute has it longer by zero pages, which are not logged.
 *
 * The whole way is real: SQL of every kind of storage (broad-workload.ts and redo-workload.ts under tests/support), compute, safekeeper, ingest,
 * layers, redo. The page cache is larger than all that is written, so that after a CHECKPOINT it holds Postgres's own pages. Three sources: the
 * open layer after a restart without a flush, layer files after another, and with image layers after a third.
 */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { must } from '../../engine/assert.ts';
import { pageSize, pagesPerRequestMax } from '../../engine/limits.ts';
import type { TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { defaultTablespace, fsmFork, globalTablespace, type RelTag, vmFork } from '../../engine/model/rel.ts';
import { PostgresRedo } from '../../engine/redo/postgres-redo.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { silentLog } from '../../server/process/node-host.ts';
import type { LocalRelation } from '../../smgr-plugin/compute.ts';
import { broadWorkload } from '../support/broad-workload.ts';
import { EmbeddedRig, type RigCompute } from '../support/embedded-rig.ts';
import { accessMethods, comparePages, databaseOids, isZero, type PageOf } from '../support/page-equality.ts';
import { redoWorkload } from '../support/redo-workload.ts';

interface Tally {
  compared: number;
  /** By redo of WAL records; the others are images as they were stored. */
  redone: number;
  /** How often each explanation was needed. */
  readonly explained: Map<string, number>;
  readonly differing: string[];
}

/** Nothing wants an image: every record since the page's beginning is redone. */
const noImages = { imageChainRecordsMin: 1e9, imageChainBytesMin: 1e9, imageDeltaBytesMin: 1e9 };

describe('pages rebuilt by the pageserver', () => {
  let rig: EmbeddedRig;
  let compute: RigCompute;
  let mask: PostgresRedo;
  let timeline: TimelineId;
  let lsn: Lsn;
  /** relfilenode -> access method: as the databases were made, and as they are now. */
  let methods: Map<number, string>;
  let copiedByWal: number[];
  let folders: { spc: number; db: number }[];

  beforeAll(async () => {
    rig = await EmbeddedRig.start('error', noImages);
    const { artefacts } = rig;
    const template = await loadTenantTemplate({ dir: join(tmpdir(), 'pagelite-tests'), artefacts, log: silentLog });
    mask = await PostgresRedo.create({ template, artefacts, log: silentLog });
    timeline = await rig.createTimeline();
    compute = await rig.open(timeline, { pageCacheBytes: 256 * 1024 * 1024 });
    const { pg } = compute;
    const atFirst = await accessMethods(pg);
    for (const { name, sql } of broadWorkload) if (name !== 'drop everything') await pg.exec(sql);
    // Its tables have names of their own, but for a few.
    await pg.exec('create schema redo; set search_path = redo');
    for (const sql of redoWorkload) await pg.exec(sql);
    methods = new Map([...atFirst, ...(await accessMethods(pg))]);
    const databases = await databaseOids(pg);
    folders = [
      { spc: globalTablespace, db: 0 },
      ...[...databases.values()].map((db) => ({ spc: defaultTablespace, db })),
    ];
    copiedByWal = ['logged', 'by_wal'].map((database) => must(databases.get(database)));
    // Nothing is asked of Postgres after this: a query may prune pages.
    await pg.exec('checkpoint');
    lsn = await rig.catchUp(timeline);
    // A database is listed by the pageserver the first time.
    for (const folder of folders) pg.relations(folder);
  }, 300_000);
  afterAll(async () => {
    await compute?.kill();
    await mask?.close();
    await rig?.close();
  });

  const name = ({ spc, db, rel, fork }: RelTag) => `${spc}/${db}/${rel}${['', '_fsm', '_vm', '_init'][fork]}`;
  const methodOf = (tag: RelTag) => must(methods.get(tag.rel), `what is ${name(tag)}?`);

  const pageOf = (rel: RelTag, block: number): PageOf => ({
    method: methodOf(rel),
    fork: rel.fork,
    block,
    copiedByWal: copiedByWal.includes(rel.db),
  });

  /** All the relations that can be at the pageserver: what is local is not, and the free space map is logged only when it is cut. */
  const shared = () =>
    folders
      .flatMap((folder) => compute.pg.relations(folder))
      .filter((one) => !one.localOnly && one.rel.fork !== fsmFork);

  async function sizesAtPageserver(): Promise<Map<string, number>> {
    const lists = await Promise.all(folders.map(({ spc, db }) => rig.storage.call('listRels', timeline, lsn, spc, db)));
    const known = lists.flat().filter(({ rel }) => rel.fork !== fsmFork);
    return new Map(known.map(({ rel, size }) => [name(rel), size]));
  }

  async function compareSizes(): Promise<void> {
    const sizes = await sizesAtPageserver();
    const wrong: string[] = [];
    let longer = 0;
    for (const { rel, size } of shared()) {
      const theirs = sizes.get(name(rel)) ?? 0;
      sizes.delete(name(rel));
      if (size === theirs) continue;
      let block = theirs;
      while (block < size && isZero(compute.pg.peekPage(rel, block) ?? new Uint8Array([1]))) block++;
      if (size > theirs && block === size) longer++;
      else wrong.push(`${name(rel)}: ${size} blocks at the compute, ${theirs} at the pageserver`);
    }
    wrong.push(...[...sizes.keys()].map((only) => `${only} exists only at the pageserver`));
    expect(wrong).toEqual([]);
    console.info(`${shared().length} relation forks have equal sizes, ${longer} of them but for zero pages at the end`);
  }

  async function compareAll(): Promise<Tally> {
    const tally: Tally = { compared: 0, redone: 0, explained: new Map(), differing: [] };
    const sizes = await sizesAtPageserver();
    for (const relation of shared()) {
      const size = Math.min(relation.size, sizes.get(name(relation.rel)) ?? 0);
      for (let block = 0; block < size; block += pagesPerRequestMax) {
        await compareRun(relation, block, Math.min(pagesPerRequestMax, size - block), tally);
      }
    }
    return tally;
  }

  async function compareRun(
    { rel, created }: LocalRelation,
    first: number,
    count: number,
    tally: Tally,
  ): Promise<void> {
    const { pages, redone } = await rig.storage.call('rebuildPages', timeline, lsn, rel, first, count);
    for (let block = first; block < first + count; block++) {
      const rebuilt = pages.subarray((block - first) * pageSize, (block - first + 1) * pageSize);
      const page = pageOf(rel, block);
      const written = compute.pg.peekPage(rel, block);
      if (written === null) {
        // Never written, and not read either. In what was made here only the buckets that a hash index has allocated and not used yet.
        if (!created) continue;
        if (page.method === 'hash' && isZero(rebuilt)) explain('buckets of a hash index that are not used yet', tally);
        else tally.differing.push(`${page.method} ${name(rel)} block ${block} is not in the page cache`);
        continue;
      }
      tally.compared++;
      if (redone.includes(block)) tally.redone++;
      const comparison = comparePages(page, rebuilt, written, mask);
      if (comparison.kind === 'different') {
        tally.differing.push(`${page.method} ${name(rel)} block ${block} from byte ${comparison.at}`);
      } else if (comparison.kind === 'explained') {
        explain(comparison.name, tally);
      }
    }
  }

  function explain(reason: string, { explained }: Tally): void {
    explained.set(reason, (explained.get(reason) ?? 0) + 1);
  }

  function report(source: string, { compared, redone, explained, differing }: Tally): void {
    const why = [...explained].map(([reason, count]) => `${count}: ${reason}`).join('; ');
    console.info(
      `${source}: ${compared} pages compared, ${redone} rebuilt from WAL records, ${compared - redone} images`,
    );
    console.info(`explained: ${why || 'none'}`);
    expect(differing).toEqual([]);
    expect(compared).toBeGreaterThan(3000);
  }

  it('come from a workload that the page cache could hold', () => {
    expect(compute.pg.spilledPages).toBe(0);
    expect(new Set(shared().map(({ rel }) => methodOf(rel)))).toEqual(
      new Set(['heap', 'btree', 'hash', 'gin', 'gist', 'spgist', 'brin', 'sequence']),
    );
  });

  it('are equal from the open layer', async () => {
    await rig.storage.call('reopenPageserver', noImages);
    await rig.catchUp(timeline);
    const { inMemory } = await rig.storage.call('layers', timeline);
    expect(inMemory.length).toBeGreaterThan(0);
    await compareSizes();
    const tally = await compareAll();
    report('open layer', tally);
    expect(tally.redone).toBeGreaterThan(1000);
  });

  it('are equal from layer files', async () => {
    await rig.storage.call('settle', timeline, 'merge');
    await rig.storage.call('reopenPageserver', noImages);
    expect((await rig.storage.call('status', timeline)).diskConsistentLsn).toBe(lsn);
    const { files } = await rig.storage.call('layers', timeline);
    expect(files.some(({ kind }) => kind === 'delta')).toBe(true);
    await compareSizes();
    const tally = await compareAll();
    report('layer files', tally);
    expect(tally.redone).toBeGreaterThan(1000);
  });

  it('are equal from image layers', async () => {
    await rig.storage.call('reopenPageserver');
    await compute.pg.exec("select pg_logical_emit_message(true, 'one more', ''); checkpoint");
    lsn = await rig.catchUp(timeline);
    await rig.storage.call('settle', timeline, 'images');
    await rig.storage.call('reopenPageserver', noImages);
    const { files } = await rig.storage.call('layers', timeline);
    expect(files.filter(({ kind }) => kind === 'image').length).toBeGreaterThan(1);
    const tally = await compareAll();
    report('image layers', tally);
    expect(tally.redone).toBe(0);
  });

  it('would not be equal with one bit more or less in a tuple', () => {
    const attacked = new Set<string>();
    for (const { rel, size } of shared()) {
      const method = methodOf(rel);
      if (rel.fork !== 0 || attacked.has(method) || !['heap', 'btree', 'hash', 'gist'].includes(method)) continue;
      for (let block = 1; block < size; block++) {
        const page = compute.pg.peekPage(rel, block);
        if (page === null) continue;
        const lower = page[12]! + page[13]! * 256;
        const upper = page[14]! + page[15]! * 256;
        // A page with tuples, the nearest of which begins at `upper`; its header is behind us at +25.
        if (lower <= 28 || upper > pageSize - 100 || upper <= lower) continue;
        const at = upper + 25;
        const damaged = page.slice();
        damaged[at]! ^= 1;
        const of = pageOf(rel, block);
        expect(comparePages(of, page, page, mask)).toEqual({ kind: 'equal' });
        expect(comparePages(of, damaged, page, mask), `${method} ${name(rel)} block ${block}`).toEqual({
          kind: 'different',
          at,
        });
        attacked.add(method);
        break;
      }
    }
    expect([...attacked].sort()).toEqual(['btree', 'gist', 'hash', 'heap']);
  });

  it('would not be equal with a visibility map that lost its bits', () => {
    const { rel, page } = must(
      shared()
        .filter(({ rel: { fork, db } }) => fork === vmFork && !copiedByWal.includes(db))
        .map((one) => ({ rel: one.rel, page: compute.pg.peekPage(one.rel, 0) }))
        .find(({ page: vm }) => vm !== null && !isZero(vm.subarray(24))),
    );
    const lost = must(page).slice().fill(0, 24);
    expect(comparePages(pageOf(rel, 0), lost, must(page), mask).kind).toBe('different');
  });
});
