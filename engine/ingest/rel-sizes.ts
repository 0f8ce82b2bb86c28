/**
 * Sizes of relations at the end of the WAL ingested so far. Each fork's size in blocks is stored under `sizeBlock` as a u32; a value of
 * zero bytes means that the fork does not exist (was dropped, or never was).
 *
 * Hot: looked up once per block reference of every record; an array indexed by the interned prefix's id.
 */
import { must } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { formatKey, type KeyPrefix, sizeBlock } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ValueReader, ValueSink } from '../services.ts';

export const noRel = -1;

export function decodeSize(image: Uint8Array | null, prefix: KeyPrefix): number {
  if (image === null || image.length === 0) return noRel;
  if (image.length !== 4) {
    throw new PageliteError('corrupt', `size of ${image.length} bytes`, { key: formatKey(prefix, sizeBlock) });
  }
  return new DataView(image.buffer, image.byteOffset, 4).getUint32(0, true);
}

export function encodeSize(blocks: number): Uint8Array {
  const image = new Uint8Array(4);
  new DataView(image.buffer).setUint32(0, blocks, true);
  return image;
}

const tombstone = new Uint8Array(0);

export class RelSizes {
  readonly #reader: ValueReader;
  readonly #sink: ValueSink;
  readonly #sizes: (number | undefined)[] = [];
  readonly #image = new Uint8Array(4);
  readonly #view = new DataView(this.#image.buffer);
  #blocksAdded = 0;

  constructor(reader: ValueReader, sink: ValueSink) {
    this.#reader = reader;
    this.#sink = sink;
  }

  /** By how many blocks all relations together have grown here. */
  get blocksAdded(): number {
    return this.#blocksAdded;
  }

  /** Size in blocks, `noRel`, or undefined if it has to be loaded first. */
  get(prefix: KeyPrefix): number | undefined {
    return this.#sizes[prefix.id];
  }

  async load(prefix: KeyPrefix): Promise<number> {
    const known = this.#sizes[prefix.id];
    if (known !== undefined) return known;
    const size = decodeSize(await this.#reader.getImage(prefix, sizeBlock), prefix);
    this.#sizes[prefix.id] = size;
    return size;
  }

  /** The caller has loaded the size that was. */
  set(prefix: KeyPrefix, lsn: Lsn, blocks: number): void {
    this.#count(prefix, blocks);
    this.#sizes[prefix.id] = blocks;
    this.#view.setUint32(0, blocks, true);
    this.#sink.putImage(prefix, sizeBlock, lsn, this.#image);
  }

  /** The caller has loaded the size that was. */
  drop(prefix: KeyPrefix, lsn: Lsn): void {
    this.#count(prefix, 0);
    this.#sizes[prefix.id] = noRel;
    this.#sink.putImage(prefix, sizeBlock, lsn, tombstone);
  }

  #count(prefix: KeyPrefix, blocks: number): void {
    this.#blocksAdded += blocks - Math.max(0, must(this.#sizes[prefix.id], 'a size is loaded before it is changed'));
  }
}
