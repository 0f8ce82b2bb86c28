/**
 * What imports and copies keep beside a timeline's layers: its bytes, pinned, and how long it is kept.
 *
 * Must hold: files that an earlier version wrote are read; another version or a flipped bit is refused; what nobody goes on with is removed.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { formatLayerName } from '../../engine/layers/layer-name.ts';
import { importIdleMaxMs } from '../../engine/limits.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { controlFileKey, dbDirectoryKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Clock } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { timelineFolder } from '../../engine/timeline/index-part.ts';
import { copyFile, decodeCopyRecord, encodeCopyRecord, loadCopyRecord } from '../../engine/transfer/copy-record.ts';
import { type ImportManifest, manifestFromJson, manifestToJson } from '../../engine/transfer/import-manifest.ts';
import { decodeImportRecord, encodeImportRecord, importFile } from '../../engine/transfer/import-record.ts';
import { TimelineImports } from '../../engine/transfer/timeline-imports.ts';
import { loadTransferRecord, storeTransferRecord, transferFileName } from '../../engine/transfer/transfer-record.ts';
import { nodeRandom, silentLog } from '../../server/process/node-host.ts';

const id: TenantTimelineId = { tenantId: tenantId('a'.repeat(32)), timelineId: timelineId('b'.repeat(32)) };
const other: TenantTimelineId = { tenantId: id.tenantId, timelineId: timelineId('c'.repeat(32)) };
const keys = { start: dbDirectoryKey, end: controlFileKey };
const image = formatLayerName({ kind: 'image', keys, lsnStart: 0x1000 as Lsn, lsnEnd: 0x1001 as Lsn });
const delta = formatLayerName({ kind: 'delta', keys, lsnStart: 0x1001 as Lsn, lsnEnd: 0x3001 as Lsn });

const manifest: ImportManifest = {
  origin: `${id.tenantId}/${id.timelineId}`,
  base: null,
  systemIdentifier: 7_000_000_000_000_000_001n,
  startLsn: 0x1000 as Lsn,
  ancestor: null,
  diskConsistentLsn: 0x3000 as Lsn,
  prevRecordLsn: 0x2f00 as Lsn,
  compactedLsn: 0x1000 as Lsn,
  layers: [
    { name: image, size: 10_000, crc32c: 1, isComplete: true },
    { name: delta, size: 20_000_000, crc32c: 0xffffffff, isComplete: false },
  ],
};
const importRecord = {
  committed: { origin: manifest.origin, lsn: 0x1000 as Lsn, importId: 'd'.repeat(32) },
  open: { importId: 'e'.repeat(32), touchedAt: 1_800_000_000_000, manifest },
};
const copyRecord = {
  id,
  source: { id: other, name: 'main' },
  lsn: 0x3000 as Lsn,
  prevRecordLsn: 0x2f00 as Lsn,
  systemIdentifier: manifest.systemIdentifier,
  layers: [{ name: image, size: 10_000 }],
  next: { step: 3, block: 128 },
  touchedAt: 1_800_000_000_000,
};
const transferRecord = {
  pulledFrom: { id: other, lsn: 0x3000 as Lsn, name: 'main' },
  pushedTo: { id, lsn: null, name: null },
};

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const golden = (name: string) => new Uint8Array(readFileSync(join(import.meta.dirname, 'golden', name)));

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  copy[20]! ^= 1;
  return copy;
}

describe('records of today', () => {
  it('import.json, and with it the list of an import, version 2', () => {
    expect(text(encodeImportRecord(importRecord))).toBe(text(golden('import-v2.txt')));
    expect(decodeImportRecord(golden('import-v2.txt'), 'f')).toEqual(importRecord);
    expect(manifestFromJson(JSON.parse(JSON.stringify(manifestToJson(manifest))))).toEqual(manifest);
    expect(() => decodeImportRecord(flipped(golden('import-v2.txt')), 'f')).toThrow(/f is damaged: wrong checksum/);
  });

  it('import.json with a list of version 1: nothing is said to be complete or merged', () => {
    const layers = manifest.layers.map((layer) => ({ ...layer, isComplete: false }));
    const open = { ...importRecord.open, manifest: { ...manifest, layers } };
    expect(decodeImportRecord(golden('import-v1.txt'), 'f')).toEqual({ ...importRecord, open });
  });

  it('copy.json', () => {
    expect(text(encodeCopyRecord(copyRecord))).toBe(text(golden('copy-v1.txt')));
    expect(decodeCopyRecord(golden('copy-v1.txt'), 'f')).toEqual(copyRecord);
    expect(() => decodeCopyRecord(flipped(golden('copy-v1.txt')), 'f')).toThrow(/f is damaged: wrong checksum/);
  });

  it('transfer.json', async () => {
    const store = new MemoryObjectStore();
    const file = timelineFolder(id) + transferFileName;
    expect(await loadTransferRecord(store, id)).toEqual({ pulledFrom: null, pushedTo: null });
    await storeTransferRecord(store, id, transferRecord);
    expect(text((await store.get(file))!.bytes)).toBe(text(golden('transfer-v1.txt')));
    expect(await loadTransferRecord(store, id)).toEqual(transferRecord);
    await store.put(file, flipped(golden('transfer-v1.txt')));
    await expect(loadTransferRecord(store, id)).rejects.toMatchObject({ kind: 'corrupt', data: { file } });
  });
});

describe('what nobody goes on with', () => {
  function imports(store: MemoryObjectStore, clock: Clock): TimelineImports {
    return new TimelineImports({
      store,
      wal: [],
      clock,
      random: nodeRandom,
      log: silentLog,
      yieldTurn: async () => {},
      generationOf: () => 0,
      find: () => null,
      create: async () => {},
    });
  }

  it('an import is given up, with what has arrived', async () => {
    const store = new MemoryObjectStore();
    let now = 0;
    const clock: Clock = { now: () => now, sleep: () => Promise.resolve() };
    const all = imports(store, clock);
    const begun = await all.begin(id, manifest);
    if (begun.kind !== 'open') throw new Error('it is new');
    await all.put(id, begun.importId, delta, 0, new Uint8Array(1000));
    const files = (await store.list(timelineFolder(id))).map(({ key }) => key);
    expect(files).toEqual([`${timelineFolder(id)}${delta}.part-0`, importFile(id)].sort());
    const kept = await all.filesUnderWay(id, files);
    expect(files.filter(kept)).toEqual(files);
    now += importIdleMaxMs + 1;
    // After a restart, and in a process that goes on when the next import begins.
    const old = await imports(store, clock).filesUnderWay(id, files);
    expect(files.filter(old)).toEqual([]);
    await all.begin(other, manifest);
    expect(await store.list(timelineFolder(id))).toEqual([]);
    await expect(all.put(id, begun.importId, delta, 1000, new Uint8Array(1000))).rejects.toMatchObject({
      kind: 'notFound',
    });
  });

  it('a copy is begun anew', async () => {
    const store = new MemoryObjectStore();
    await store.put(copyFile(id), encodeCopyRecord(copyRecord));
    const { touchedAt } = copyRecord;
    expect(await loadCopyRecord(store, copyFile(id), touchedAt + importIdleMaxMs)).toEqual(copyRecord);
    expect(await loadCopyRecord(store, copyFile(id), touchedAt + importIdleMaxMs + 1)).toBeNull();
  });
});
