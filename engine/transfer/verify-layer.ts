/**
 * Whether bytes from elsewhere are a layer file of a timeline: everything that reading it relies on, checked once, before it is stored.
 *
 * Called for each layer of an import (timeline-imports.ts). What the values do to pages is not looked at: a WAL record that PostgreSQL refuses
 * is an error of the page that it is for, as it is with a layer written here.
 */
import { must } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { isPageliteError, PageliteError } from '../errors.ts';
import { compareEntries, DataBlock } from '../layers/data-block.ts';
import { checkHeader, footerBytes, LayerIndex, readFooter } from '../layers/layer-format.ts';
import { type LayerDesc, parseLayerName, rangeContains } from '../layers/layer-name.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { KeyPrefix } from '../model/key.ts';
import { valueKind } from '../model/value.ts';
import type { ManifestLayer } from './import-manifest.ts';

/** Data blocks that are checked before others run. */
const blocksPerTurn = 64;
const valueKindMax = Math.max(...Object.values(valueKind));

/** Throws `invalid`, naming the layer and what is wrong. */
export async function verifyLayer(
  id: TenantTimelineId,
  layer: ManifestLayer,
  bytes: Uint8Array,
  yieldTurn: () => Promise<void>,
): Promise<void> {
  const bad = (problem: string) =>
    new PageliteError('invalid', `layer ${layer.name} is refused: ${problem}`, { ...id, layer: layer.name });
  if (bytes.length !== layer.size) throw bad(`${bytes.length} bytes, ${layer.size} were announced`);
  if (crc32c(bytes) !== layer.crc32c) throw bad('it does not have the checksum that was announced');
  try {
    await checkBlocks(id, must(parseLayerName(layer.name)), layer.name, bytes, yieldTurn, bad);
  } catch (error) {
    if (isPageliteError(error, 'corrupt') || error instanceof RangeError) throw bad(error.message);
    throw error;
  }
}

async function checkBlocks(
  id: TenantTimelineId,
  desc: LayerDesc,
  name: string,
  bytes: Uint8Array,
  yieldTurn: () => Promise<void>,
  bad: (problem: string) => PageliteError,
): Promise<void> {
  checkHeader(bytes, name, id, desc);
  const { indexOffset, indexBytes } = readFooter(bytes.subarray(bytes.length - footerBytes), name, bytes.length);
  const index = new LayerIndex(bytes.slice(indexOffset, indexOffset + indexBytes), name, indexOffset);
  const order = new Order(desc, bad);
  for (let i = 0, p = -1; i < index.blockCount; i++) {
    const offset = index.offsets[i]!;
    const block = new DataBlock(bytes.slice(offset, index.offsets[i + 1]!), name, offset);
    // The index finds what the blocks hold.
    if (index.prefixFirst[p + 1] === i) p++;
    const agrees =
      index.prefixes[p] === block.firstPrefix &&
      index.firstBlocks[i] === block.blocks[0] &&
      index.firstLsns[i] === block.lsn(0) &&
      index.counts[i] === block.entryCount;
    if (!agrees) throw bad(`its index does not fit the block at ${offset}`);
    order.checkBlock(block);
    if (i === index.blockCount - 1 && p !== index.prefixes.length - 1) throw bad('its index has more prefixes than it');
    if (i % blocksPerTurn === blocksPerTurn - 1) await yieldTurn();
  }
}

/** Entries ascend, from block to block too, and stay in the layer's rectangle. */
class Order {
  readonly #desc: LayerDesc;
  readonly #bad: (problem: string) => PageliteError;
  #prefix: KeyPrefix | null = null;
  #block = 0;
  #lsn = 0;

  constructor(desc: LayerDesc, bad: (problem: string) => PageliteError) {
    this.#desc = desc;
    this.#bad = bad;
  }

  checkBlock(data: DataBlock): void {
    let end = 0;
    for (let p = 0; p < data.prefixes.length; p++) {
      const first = data.prefixFirst[p]!;
      const next = data.prefixFirst[p + 1]!;
      if (first !== end || next <= first || next > data.entryCount) throw this.#bad('prefixes are out of order');
      end = next;
      for (let i = first; i < next; i++) this.#checkEntry(data, data.prefixes[p]!, i);
    }
  }

  #checkEntry(data: DataBlock, prefix: KeyPrefix, entry: number): void {
    const { kind, keys, lsnStart, lsnEnd } = this.#desc;
    const block = data.blocks[entry]!;
    const lsn = data.lsn(entry);
    const ordered =
      this.#prefix === null || compareEntries(this.#prefix, this.#block, this.#lsn, prefix, block, lsn) <= 0;
    if (!ordered) throw this.#bad('its values are out of order');
    if (!rangeContains(keys, { prefix, block }) || lsn < lsnStart || lsn >= lsnEnd) {
      throw this.#bad('it holds a value that is outside of its keys or LSNs');
    }
    if (!data.isInside(entry)) throw this.#bad('a value is outside of its block');
    const kindOf = data.kinds[entry]!;
    if (kindOf > valueKindMax || (kind === 'image' && kindOf !== valueKind.image)) {
      throw this.#bad(`a value of kind ${kindOf}`);
    }
    this.#prefix = prefix;
    this.#block = block;
    this.#lsn = lsn;
  }
}
