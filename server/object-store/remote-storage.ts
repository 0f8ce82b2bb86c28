/**
 * Where a pageserver's truth is: a bucket, or a folder (Neon's remote_storage). What `pagelite init --remote-storage` takes.
 *
 *   s3://bucket/prefix       settings from the AWS environment variables
 *   file:///path/to/folder   a local disk, or one that several machines have mounted
 */
import { fileURLToPath } from 'node:url';
import { PageliteError } from '../../engine/errors.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { DiskObjectStore, isFolder } from './disk.ts';
import { type S3Location, S3ObjectStore } from './s3.ts';
import { checkStorageMarker, noStorage, storageMarker } from './storage-marker.ts';

export type RemoteStorage =
  | { readonly kind: 's3'; readonly location: S3Location }
  | { readonly kind: 'folder'; readonly path: string };

const bucketPattern = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
const prefixPattern = /^[\w.~-]+(\/[\w.~-]+)*$/;

/** Throws `invalid`, saying what is wrong with the text. */
export function parseRemoteStorage(text: string): RemoteStorage {
  const bad = (reason: string) =>
    new PageliteError(
      'invalid',
      `"${text}" is not a remote storage: ${reason}. Such are s3://bucket/prefix and file:///path`,
    );
  if (text.startsWith('file://')) {
    const path = readFileUrl(text, bad);
    if (path === '/') throw bad('the root folder is none of ours');
    return { kind: 'folder', path };
  }
  const match = /^s3:\/\/([^/]*)\/?(.*)$/.exec(text);
  if (match === null) throw bad('it begins with neither s3:// nor file:///');
  const bucket = match[1]!;
  const prefix = match[2]!.replace(/\/+$/, '');
  if (!bucketPattern.test(bucket)) throw bad(`"${bucket}" is not the name of a bucket`);
  if (prefix !== '' && !prefixPattern.test(prefix)) throw bad(`"${prefix}" is not a prefix`);
  return { kind: 's3', location: { bucket, prefix: prefix === '' ? '' : `${prefix}/` } };
}

function readFileUrl(text: string, bad: (reason: string) => PageliteError): string {
  try {
    return fileURLToPath(text);
  } catch {
    throw bad('the path is not absolute');
  }
}

export function formatRemoteStorage(storage: RemoteStorage): string {
  if (storage.kind === 'folder') return `file://${storage.path}`;
  const { bucket, prefix } = storage.location;
  return prefix === '' ? `s3://${bucket}` : `s3://${bucket}/${prefix.slice(0, -1)}`;
}

/** `mayCreate`: it may be new, and is made then. Throws `unavailable`, saying what is wrong, if it is none or cannot be listed and written. */
export async function openRemoteStorage(
  storage: RemoteStorage,
  { mayCreate }: { readonly mayCreate: boolean },
): Promise<ObjectStore> {
  const where = formatRemoteStorage(storage);
  if (storage.kind === 'folder') {
    if (!mayCreate && !(await isFolder(storage.path))) throw noStorage(where);
    await checkStorageMarker(await DiskObjectStore.open(storage.path), where, mayCreate);
    return DiskObjectStore.open(storage.path, { sweep: false, marker: storageMarker });
  }
  const store = await S3ObjectStore.open(storage.location);
  await store.checkAccess();
  await checkStorageMarker(store, where, mayCreate);
  return store;
}
