/**
 * Small values of a server's timeline at one LSN (sizes, directories, clog pages): one record of the page cache holds many.
 *
 *   u32 count | per value: key (18 bytes) | u32 length, 0xffffffff: does not exist | bytes
 *
 * The record around it carries the checksum; lengths are checked again, because what is read decides what is allocated.
 */
import { PageliteError } from '../../engine/errors.ts';
import { type Key, type KeyPrefix, keyBytes, readKeyBlock, readKeyPrefix, writeKey } from '../../engine/model/key.ts';

export interface KeptValue extends Key {
  readonly bytes: Uint8Array | null;
}

const absent = 0xffffffff;

/** Values by key, without strings made of keys. */
export class KeptValues {
  readonly #byPrefix = new Map<KeyPrefix, Map<number, Uint8Array | null>>();

  /** Undefined: not known. Null: known not to exist. */
  get(prefix: KeyPrefix, block: number): Uint8Array | null | undefined {
    return this.#byPrefix.get(prefix)?.get(block);
  }

  set({ prefix, block, bytes }: KeptValue): void {
    let blocks = this.#byPrefix.get(prefix);
    if (blocks === undefined) {
      blocks = new Map();
      this.#byPrefix.set(prefix, blocks);
    }
    blocks.set(block, bytes);
  }
}

export function encodeValues(values: readonly KeptValue[]): Uint8Array {
  const size = values.reduce((sum, { bytes }) => sum + keyBytes + 4 + (bytes?.length ?? 0), 4);
  const out = new Uint8Array(size);
  const view = new DataView(out.buffer);
  view.setUint32(0, values.length, true);
  let at = 4;
  for (const { prefix, block, bytes } of values) {
    writeKey(view, at, prefix, block);
    view.setUint32(at + keyBytes, bytes === null ? absent : bytes.length, true);
    at += keyBytes + 4;
    if (bytes === null) continue;
    out.set(bytes, at);
    at += bytes.length;
  }
  return out;
}

/** Throws `corrupt`. */
export function decodeValues(record: Uint8Array): KeptValue[] {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const need = (at: number) => {
    if (at > record.length) throw new PageliteError('corrupt', 'kept values of a server branch are cut short');
  };
  need(4);
  const values: KeptValue[] = [];
  let at = 4;
  for (let left = view.getUint32(0, true); left > 0; left--) {
    need(at + keyBytes + 4);
    const length = view.getUint32(at + keyBytes, true);
    const prefix = readKeyPrefix(view, at);
    const block = readKeyBlock(view, at);
    at += keyBytes + 4;
    const end = at + (length === absent ? 0 : length);
    need(end);
    values.push({ prefix, block, bytes: length === absent ? null : record.slice(at, end) });
    at = end;
  }
  return values;
}
