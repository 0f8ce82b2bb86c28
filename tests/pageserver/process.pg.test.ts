/**
 * The pageserver process, with real WAL of a PGlite that booted from the pageserver's own basebackup.
 *
 * Must hold: the contract of PageService over the socket, byte for byte against the index file that PGlite wrote; a process killed with -9 comes
 * back with its tenants and timelines and reads the rest from the safekeeper, while computes wait; a damaged layer or index is named in the
 * error of whoever reads it, and other timelines go on; noise costs its own connection. WAL comes from one recorded run, written to each
 * timeline by a proposer.
 */

import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { pageSize } from '../../engine/limits.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { RelTag } from '../../engine/model/rel.ts';
import type { PageService, ValueReader } from '../../engine/services.ts';
import { runPageServiceContract } from '../contracts/page-service.ts';
import { bootDirectory, dataDirectory } from '../support/boot-directory.ts';
import { type RecordedWal, StorageProcesses } from '../support/storage-processes.ts';
import { newestIndexFile, storedLayerFile } from '../support/stored-files.ts';
import { currentLsn, keepWal, readPgWal } from '../support/wal-fixture.ts';

interface Recording extends RecordedWal {
  /** The index of a table's key: none of its bits are hints. It grows from its first leaf to a tree, which changes block 0, the metapage. */
  readonly rel: RelTag;
  readonly earlier: Lsn;
  readonly later: Lsn;
  /** Past `later`, with more in it. */
  readonly end: Lsn;
  readonly indexAt: { readonly earlier: Uint8Array; readonly later: Uint8Array };
}

let storage: StorageProcesses;
let recording: Recording;

beforeAll(async () => {
  storage = await StorageProcesses.start();
  recording = await record();
});
afterAll(() => storage?.close());

/** Boots a PGlite from a basebackup over the socket and keeps what it writes. */
async function record(): Promise<Recording> {
  const source = storage.connect(await storage.createTimeline());
  const backup = await source.getBasebackup(null);
  const at = { requestLsn: backup.lsn, notModifiedSince: backup.lsn };
  const reader: ValueReader = {
    getImage: async (prefix, block) => (await source.getImages(at, [{ prefix, block }]))[0] ?? null,
  };
  const pg = await bootDirectory(await dataDirectory(backup, reader), keepWal);
  await pg.exec('create table t (id int primary key, v text)');
  await pg.exec("insert into t select i, 'row ' || i from generate_series(1, 300) i");
  const earlier = await currentLsn(pg);
  const earlierIndex = await indexFile(pg);
  await pg.exec("insert into t select i, 'row ' || i from generate_series(301, 9000) i");
  const later = await currentLsn(pg);
  const laterIndex = await indexFile(pg);
  await pg.exec('create table other (id int); insert into other values (1)');
  const end = await currentLsn(pg);
  await pg.exec("select pg_logical_emit_message(true, 'flush', '')");
  const { rows } = await pg.query<{ db: number; rel: number }>(
    "select d.oid::int as db, pg_relation_filenode('t_pkey')::int as rel from pg_database d where datname = current_database()",
  );
  const bytes = readPgWal(pg, backup.lsn, end);
  await pg.close();
  return {
    startLsn: backup.lsn,
    bytes,
    systemIdentifier: backup.systemIdentifier,
    rel: { spc: 1663, db: rows[0]!.db, rel: rows[0]!.rel, fork: 0 },
    earlier,
    later,
    end,
    indexAt: { earlier: earlierIndex, later: laterIndex },
  };
}

async function indexFile(pg: PGlite): Promise<Uint8Array> {
  await pg.exec('checkpoint');
  const { rows } = await pg.query<{ path: string }>("select pg_relation_filepath('t_pkey') as path");
  return pg.Module.FS.readFile(`/pglite/data/${rows[0]!.path}`).slice();
}

const expectedPage = (lsn: Lsn, block: number): Uint8Array => {
  const file = lsn === recording.earlier ? recording.indexAt.earlier : recording.indexAt.later;
  return file.slice(block * pageSize, (block + 1) * pageSize);
};
const laterBlocks = () => recording.indexAt.later.length / pageSize;
const readLog = () => readFileSync(join(storage.pageserverDir, 'pageserver.log'), 'utf8');
const wal = (from: Lsn) => recording.bytes.slice(from - recording.startLsn);
const exactly = (lsn: Lsn) => ({ requestLsn: lsn, notModifiedSince: lsn });

/** A timeline with the recorded WAL up to `later`. */
async function recordedTimeline(): Promise<TenantTimelineId> {
  const id = await storage.createTimeline();
  await storage.writeWal(id, recording, recording.later);
  return id;
}

async function expectIndexPages(pages: PageService, lsn: Lsn): Promise<void> {
  const { earlier, later } = recording.indexAt;
  const blocks = (lsn === recording.earlier ? earlier : later).length / pageSize;
  for (let block = 0; block < blocks; block++) {
    const page = await pages.getPages(exactly(lsn), recording.rel, block, 1);
    expect(Buffer.compare(page, expectedPage(lsn, block)), `block ${block}`).toBe(0);
  }
}

runPageServiceContract('pageserver process', async () => {
  const { rel, earlier, later, indexAt } = recording;
  const id = await recordedTimeline();
  const service = storage.connect(id);
  await service.getRelSize(exactly(later), rel);
  return {
    service,
    rel,
    earlier,
    later,
    sizes: { earlier: indexAt.earlier.length / pageSize, later: laterBlocks() },
    expectedPage,
    advance: async () => {
      await storage.writeWal(id, recording, recording.end);
      await service.getRelSize(exactly(recording.end), rel);
    },
    close: async () => service.close(),
  };
});

/** Writes the timeline's WAL out and names the delta layer. */
async function flushedDelta(id: TenantTimelineId): Promise<string> {
  await storage.connect(id).getRelSize(exactly(recording.later), recording.rel);
  await storage.call('PUT', `${storage.timelinePath(id)}/checkpoint`);
  const { json } = await storage.get(`${storage.timelinePath(id)}/layer`);
  const layers = (json as { historic_layers: { kind: string; layer_file_name: string }[] }).historic_layers;
  return layers.find((layer) => layer.kind === 'Delta')!.layer_file_name;
}

function changeFile(path: string, change: (bytes: Uint8Array) => void): void {
  const bytes = readFileSync(path);
  change(bytes);
  writeFileSync(path, bytes);
}

describe('the pageserver process', () => {
  it('killed with -9 comes back with what it had, and computes wait for it', async () => {
    const id = await recordedTimeline();
    const branch = await storage.post(`/v1/tenant/${id.tenantId}/timeline`, {
      ancestor_timeline_id: id.timelineId,
      ancestor_start_lsn: formatLsn(recording.earlier),
    });
    expect(branch.status).toBe(201);
    const pages = storage.connect(id);
    await expectIndexPages(pages, recording.later);
    const before = await storage.get(`/v1/tenant/${id.tenantId}/timeline`);
    // A compute that waits for WAL which is yet to come.
    const waiting = pages.getRelSize(exactly(recording.end), recording.rel);
    for (const flush of [false, true]) {
      if (flush) expect((await storage.call('PUT', `${storage.timelinePath(id)}/checkpoint`)).status).toBe(200);
      expect(await storage.stopPageserver('immediate')).toBe(true);
      await storage.startPageserver();
      await expectIndexPages(pages, recording.later);
    }
    const ids = (json: unknown) => (json as { timeline_id: string }[]).map((timeline) => timeline.timeline_id);
    const after = await storage.get(`/v1/tenant/${id.tenantId}/timeline`);
    expect(ids(after.json)).toEqual(ids(before.json));
    await storage.writeWal(id, recording, recording.end);
    expect(await waiting).toBe(laterBlocks());
  });

  it('stops cleanly, and a second one in its folder is refused', async () => {
    await expect(storage.startPageserver()).rejects.toMatchObject({ kind: 'invalid', message: /already running/ });
    expect(await storage.stopPageserver('fast')).toBe(true);
    const log = readFileSync(join(storage.pageserverDir, 'pageserver.log'), 'utf8').trim().split('\n');
    expect(log.at(-1)).toContain('pageserver has stopped');
    await storage.startPageserver();
  });

  it('names a damaged layer or index to who reads it, and other timelines go on', async () => {
    const damagedLayer = await recordedTimeline();
    const damagedIndex = await recordedTimeline();
    const healthy = await recordedTimeline();
    const layer = await flushedDelta(damagedLayer);
    await storage.stopPageserver('fast');
    changeFile(storedLayerFile(storage.timelineDir(damagedLayer), layer), (bytes) => {
      // Every block of it, so that whichever the page needs is damaged; the index at the end is left whole.
      for (let at = 100; at < bytes.length / 2; at += 1000) bytes[at]! ^= 1;
    });
    changeFile(newestIndexFile(storage.timelineDir(damagedIndex)), (bytes) => {
      bytes[20]! ^= 1;
    });
    await storage.startPageserver();

    const pages = storage.connect(damagedLayer);
    const error = await expectIndexPages(pages, recording.later).catch((e: unknown) => e);
    expect(error).toMatchObject({ kind: 'corrupt', message: expect.stringContaining(layer) });
    // What the layer does not hold is still there.
    const catalog = { ...recording.rel, rel: 1259 };
    expect(await pages.getRelSize(exactly(recording.startLsn), catalog)).toBeGreaterThan(0);

    const { status, json } = await storage.get(storage.timelinePath(damagedIndex));
    expect(status).toBe(200);
    const { state } = json as { state: { Broken: { reason: string } } };
    expect(state.Broken.reason).toContain(`${damagedIndex.timelineId}/index_part.json`);
    await expect(storage.connect(damagedIndex).getStatus()).rejects.toMatchObject({
      kind: 'corrupt',
      message: expect.stringContaining('index_part.json'),
    });
    expect((await storage.call('DELETE', storage.timelinePath(damagedIndex))).status).toBe(200);
    expect((await storage.get(storage.timelinePath(damagedIndex))).status).toBe(404);

    await expectIndexPages(storage.connect(healthy), recording.later);
  });

  it('compacts in a thread of its own, also a branch, and may be killed meanwhile', async () => {
    const id = await recordedTimeline();
    const branch = { tenantId: id.tenantId, timelineId: 'ab'.repeat(16) as TenantTimelineId['timelineId'] };
    const made = await storage.post(`/v1/tenant/${id.tenantId}/timeline`, {
      new_timeline_id: branch.timelineId,
      ancestor_timeline_id: id.timelineId,
      ancestor_start_lsn: formatLsn(recording.earlier),
    });
    expect(made.status).toBe(201);
    const compact = (of: TenantTimelineId) =>
      storage.call('PUT', `${storage.timelinePath(of)}/checkpoint?force_image_layer_creation=true`);
    // A kill at an unknown moment of it: what there was is there, and the next attempt finishes.
    const cut = compact(id).catch(() => null);
    await expect.poll(() => readLog()).toContain('merged delta layers');
    await storage.stopPageserver('immediate');
    await cut;
    await storage.startPageserver();
    expect((await compact(id)).status).toBe(200);
    await storage.writeWal(
      branch,
      { ...recording, startLsn: recording.earlier, bytes: wal(recording.earlier) },
      recording.later,
    );
    await storage.connect(branch).getRelSize(exactly(recording.later), recording.rel);
    expect((await compact(branch)).status).toBe(200);
    expect(readLog()).not.toContain('compaction failed');
    for (const of of [id, branch]) {
      const { json } = await storage.get(`${storage.timelinePath(of)}/layer`);
      const layers = (json as { historic_layers: { kind: string; lsn_start: string }[] }).historic_layers;
      expect(
        layers.filter(({ kind, lsn_start }) => kind === 'Image' && lsn_start >= formatLsn(recording.later)).length,
      ).toBeGreaterThan(0);
      for (const lsn of [recording.earlier, recording.later]) await expectIndexPages(storage.connect(of), lsn);
    }
    expect((await storage.call('PUT', `${storage.timelinePath(branch)}/detach_ancestor`)).status).toBe(200);
    expect((await storage.call('DELETE', storage.timelinePath(id))).status).toBe(200);
    for (const lsn of [recording.earlier, recording.later]) await expectIndexPages(storage.connect(branch), lsn);
  });

  it('noise on its ports costs the connections that made it', async () => {
    const id = await recordedTimeline();
    const pages = storage.connect(id);
    await pages.getStatus();
    for (const noise of [Uint8Array.of(1, 2, 3), new Uint8Array(1000).fill(0xff), 'text']) {
      const socket = new WebSocket(`ws://127.0.0.1:${storage.port}/pagestream`);
      await once(socket, 'open');
      socket.send(noise);
      await once(socket, 'close');
    }
    await expectIndexPages(pages, recording.later);
  });
});
