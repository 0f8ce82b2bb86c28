/** The object stores keep the contract; the one on disk also leaves nothing half-written for a process that starts after a crash. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { DiskObjectStore } from '../../server/object-store/disk.ts';
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
