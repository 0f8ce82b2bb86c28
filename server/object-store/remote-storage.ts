/**
 * Where a pageserver's truth is: a bucket, or a folder (Neon's remote_storage). What `pagelite init --remote-storage` takes.
 *
 *   s3://bucket/prefix       settings from the AWS environment variables
 *   file:///path/to/folder   a local disk, or one that several machines have mounted
 */
import { fileURLToPath } from 'node:url';
import { PageliteError } from '../../engine/errors.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { DiskObjectStore } from './disk.ts';
import { type S3Location, S3ObjectStore } from './s3.ts';

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

/** Throws `unavailable`, saying what is wrong, if it cannot be listed and written. */
export async function openRemoteStorage(storage: RemoteStorage): Promise<ObjectStore> {
  if (storage.kind === 'folder') return DiskObjectStore.open(storage.path);
  const store = await S3ObjectStore.open(storage.location);
  await store.checkAccess();
  return store;
}
