/**
 * A list of files as one value or blob.
 *
 *   u32 magic "PLF1" | u32 count | per file: u16 path bytes, path (UTF-8), u32 length or 0xFFFFFFFF for a directory, bytes | u32 CRC32C
 */
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import type { DataFile } from '../services.ts';

const magic = 0x31464c50;
const isFolder = 0xffffffff;

export function encodeFiles(files: readonly DataFile[]): Uint8Array {
  const paths = files.map((file) => new TextEncoder().encode(file.path));
  const size = files.reduce((sum, file, i) => sum + 6 + paths[i]!.length + (file.bytes?.length ?? 0), 12);
  const out = new Uint8Array(size);
  const view = new DataView(out.buffer);
  view.setUint32(0, magic, true);
  view.setUint32(4, files.length, true);
  let at = 8;
  files.forEach((file, i) => {
    view.setUint16(at, paths[i]!.length, true);
    out.set(paths[i]!, at + 2);
    at += 2 + paths[i]!.length;
    view.setUint32(at, file.bytes?.length ?? isFolder, true);
    at += 4;
    if (file.bytes !== null) out.set(file.bytes, at);
    at += file.bytes?.length ?? 0;
  });
  view.setUint32(at, crc32c(out, 0, at), true);
  return out;
}

/** Throws `corrupt`. The files' bytes are views into `blob`. */
export function decodeFiles(blob: Uint8Array): DataFile[] {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  const end = blob.length - 4;
  if (end < 8 || view.getUint32(0, true) !== magic || view.getUint32(end, true) !== crc32c(blob, 0, end)) {
    throw new PageliteError('corrupt', 'list of files fails its check');
  }
  const files: DataFile[] = [];
  let at = 8;
  const take = (size: number) => {
    if (at + size > end) throw new PageliteError('corrupt', 'list of files is cut short');
    at += size;
    return at - size;
  };
  for (let i = view.getUint32(4, true); i > 0; i--) {
    const pathBytes = view.getUint16(take(2), true);
    const pathAt = take(pathBytes);
    const path = new TextDecoder().decode(blob.subarray(pathAt, pathAt + pathBytes));
    const length = view.getUint32(take(4), true);
    const from = length === isFolder ? at : take(length);
    files.push({ path, bytes: length === isFolder ? null : blob.subarray(from, from + length) });
  }
  return files;
}
