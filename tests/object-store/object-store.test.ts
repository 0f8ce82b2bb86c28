/** The object stores keep the contract; the one on disk also leaves nothing half-written for a process that starts after a crash. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { DiskObjectStore } from '../../server/object-store/disk.ts';
import { openRemoteStorage } from '../../server/object-store/remote-storage.ts';
import { storageMarker } from '../../server/object-store/storage-marker.ts';
import { runObjectStoreContract } from '../contracts/object-store.ts';

async function folder(): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'pagelite-store-'));
  return { path, remove: () => rm(path, { recursive: true }) };
}

runObjectStoreContract('memory', async () => ({ store: new MemoryObjectStore(), close: async () => {} }));

runObjectStoreContract('disk', async () => {
  const { path, remove } = await folder();
  return { store: await DiskObjectStore.open(path), close: remove };
});

it('disk: objects are files at their keys, and survive', async () => {
  const { path, remove } = await folder();
  const store = await DiskObjectStore.open(path);
  const version = await store.put('tenants/x/index', new Uint8Array([1]));
  expect(await readdir(join(path, 'tenants', 'x'))).toEqual(['index']);
  const again = await DiskObjectStore.open(path);
  expect(await again.get('tenants/x/index')).toEqual({ bytes: new Uint8Array([1]), version });
  await again.put('tenants/x/index', new Uint8Array([2]), { ifVersion: version });
  // The folders of deleted objects go too.
  await again.delete('tenants/x/index');
  expect(await readdir(path)).toEqual([]);
  await remove();
});

it('disk: what a crash left half-written is removed and never listed', async () => {
  const { path, remove } = await folder();
  const store = await DiskObjectStore.open(path);
  await store.put('a/b', new Uint8Array([1]));
  await writeFile(join(path, 'a', `.tmp-${process.pid}-0-1`), 'half');
  expect((await store.list('')).map(({ key }) => key)).toEqual(['a/b']);
  await DiskObjectStore.open(path);
  expect(await readdir(join(path, 'a'))).toEqual(['b']);
  await remove();
});

it('disk: an error of the disk is unavailable and names the object', async () => {
  const { path, remove } = await folder();
  const store = await DiskObjectStore.open(path);
  await store.put('a', new Uint8Array([1]));
  await expect(store.put('a/b', new Uint8Array([1]))).rejects.toMatchObject({
    kind: 'unavailable',
    data: { file: 'a/b' },
  });
  await remove();
});

describe('a remote storage in a folder', () => {
  let parent: string;
  let path: string;
  const bytes = new Uint8Array([1]);
  const open = (mayCreate: boolean) => openRemoteStorage({ kind: 'folder', path }, { mayCreate });
  beforeEach(async () => {
    parent = await mkdtemp(join(tmpdir(), 'pagelite-store-'));
    path = join(parent, 'bucket');
  });
  afterEach(() => rm(parent, { recursive: true }));

  it('that is not there, or is empty, is one only for who makes it', async () => {
    await expect(open(false)).rejects.toMatchObject({ kind: 'unavailable', message: /is no storage.*not mounted/ });
    expect(existsSync(path)).toBe(false);
    await mkdir(path);
    await expect(open(false)).rejects.toThrow(/is no storage/);
    expect(await readdir(path)).toEqual([]);
    await open(true);
    expect(await readdir(path)).toEqual([storageMarker]);
    await open(false);
  });

  it('from before there was a marker has tenants, and gets one', async () => {
    await (await DiskObjectStore.open(path)).put('tenants/x/tenant.json', bytes);
    await open(false);
    expect((await readdir(path)).sort()).toEqual([storageMarker, 'tenants']);
  });

  for (const what of ['vanishes', 'is not mounted any more'] as const) {
    it(`that ${what} is unavailable for everything, until it is back`, async () => {
      const store = await open(true);
      await store.put('tenants/x/a', bytes);
      await rename(path, join(parent, 'elsewhere'));
      if (what !== 'vanishes') await mkdir(path);
      const attempts = {
        put: () => store.put('tenants/x/b', bytes),
        putNew: () => store.put('tenants/y/c', bytes, { ifAbsent: true }),
        putAtTop: () => store.put('d', bytes),
        get: () => store.get('tenants/x/a'),
        head: () => store.head('tenants/x/a'),
        list: () => store.list('tenants/x/'),
        listFolders: () => store.listFolders('tenants/'),
        delete: () => store.delete('tenants/x/a'),
      };
      for (const [name, attempt] of Object.entries(attempts)) {
        await expect(attempt(), name).rejects.toMatchObject({ kind: 'unavailable' });
      }
      expect(existsSync(join(path, 'tenants'))).toBe(false);
      await rm(path, { recursive: true, force: true });
      await rename(join(parent, 'elsewhere'), path);
      await store.put('tenants/y/c', bytes, { ifAbsent: true });
      expect((await store.list('tenants/')).map(({ key }) => key)).toEqual(['tenants/x/a', 'tenants/y/c']);
    });
  }
});
