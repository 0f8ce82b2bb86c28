/**
 * Image layers: whole values of some keys as of one LSN. Written when a timeline is created from a template, and in the background for
 * pages whose chains of records have become long (timeline/image-creation.ts); read as any LayerFile.
 *
 * An image layer need not have every key of its range: a key that it does not have is looked up further down. Its index names every page,
 * so a page that is not there costs no read.
 */
import { assert } from '../assert.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { KeyPrefix } from '../model/key.ts';
import { type Lsn, maxLsn } from '../model/lsn.ts';
import { valueKind } from '../model/value.ts';
import type { InMemoryLayer } from './in-memory-layer.ts';
import { LayerWriter, type WrittenLayer } from './layer-writer.ts';

export class ImageLayerWriter {
  readonly #writer: LayerWriter;
  readonly #lsn: Lsn;

  constructor(id: TenantTimelineId, lsn: Lsn, bytesExpected: number) {
    this.#writer = new LayerWriter('image', id, bytesExpected);
    this.#lsn = lsn;
  }

  get length(): number {
    return this.#writer.length;
  }

  /** Keys ascend. Zero bytes: the key does not exist. */
  add(prefix: KeyPrefix, block: number, image: Uint8Array): void {
    this.#writer.add(prefix, block, this.#lsn, valueKind.image, image, 0, image.length);
  }

  finish(): WrittenLayer | null {
    return this.#writer.finish(this.#lsn, (this.#lsn + 1) as Lsn);
  }
}

/** All of a layer whose values are images as of `lsn`: a timeline's first layer. Lets others run in between. */
export async function writeImageLayer(
  id: TenantTimelineId,
  layer: InMemoryLayer,
  lsn: Lsn,
  yieldTurn: () => Promise<void>,
): Promise<WrittenLayer | null> {
  const writer = new ImageLayerWriter(id, lsn, Math.ceil(layer.bytes * 1.02));
  const walk = layer.walk(maxLsn, (prefix, block, valueLsn, kind, bytes, start, length) => {
    assert(kind === valueKind.image && valueLsn === lsn);
    writer.add(prefix, block, bytes.subarray(start, start + length));
  });
  for (const _ of walk) await yieldTurn();
  return writer.finish();
}
