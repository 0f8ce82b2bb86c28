/**
 * Complete image layers for one column as of an LSN (plan.ts): the value of every key that a layer of the column has, read as any read would.
 *
 * What does not exist at that LSN any more (a relation that was dropped, blocks behind its end) is left out where nothing is below: a read in a timeline
 * without an ancestor ends at a complete image. In a branch it is written as a value of no bytes, as the ancestor may have it.
 *
 * Invariant: the layers tile the column, so that what they stand above is known to be covered; a page that cannot be rebuilt fails the job, as a complete
 * layer without it would say that it does not exist.
 */
import { decodeSize } from '../ingest/rel-sizes.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import { LayerWriter } from '../layers/layer-writer.ts';
import type { ValueChain } from '../layers/value-chain.ts';
import { mergeReadAheadBytesMax } from '../limits.ts';
import { compareKeys, type Key, type KeyPrefix, keyKind, sizeBlock } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { valueKind } from '../model/value.ts';
import { gather } from '../timeline/gather.ts';
import { reconstructWhenReady, WorkBudget } from '../timeline/reconstruct.ts';
import type { Column } from './columns.ts';
import type { CompactionParts } from './compaction-parts.ts';
import { LayerCursor } from './layer-cursor.ts';
import { LayerMerge } from './layer-merge.ts';

/** Pages of one relation that are gathered together. */
const runBlocksMax = 32;
const nothing = new Uint8Array(0);

/** Resolves when all layers are put. Throws `corrupt` for a page that cannot be rebuilt. */
export async function imageColumn(column: Column<LayerFile>, lsn: Lsn, parts: CompactionParts): Promise<void> {
  await new ColumnImages(column, lsn, parts).run();
}

/** Of keys whose values are in sealed layers only, one is enough. */
function topmostSealed({ sealed }: Column<LayerFile>): LayerFile[] {
  return sealed.filter(({ desc }, i) => i === 0 || compareKeys(sealed[i - 1]!.desc.keys.start, desc.keys.start) !== 0);
}

class ColumnImages {
  readonly #parts: CompactionParts;
  readonly #column: Column<LayerFile>;
  readonly #lsn: Lsn;
  readonly #budget: WorkBudget;
  #writer: LayerWriter;
  #tileStart: Key;
  #sizePrefix: KeyPrefix | null = null;
  #size = 0;

  constructor(column: Column<LayerFile>, lsn: Lsn, parts: CompactionParts) {
    this.#parts = parts;
    this.#column = column;
    this.#lsn = lsn;
    this.#budget = new WorkBudget(parts.yieldTurn);
    this.#tileStart = column.start;
    this.#writer = this.#newWriter();
  }

  async run(): Promise<void> {
    const { signal } = this.#parts;
    const { images, sparse, runs, setAsideLive, end } = this.#column;
    const apart = [...sparse, ...setAsideLive, ...topmostSealed(this.#column)];
    const inputs = [images, ...apart.map((layer) => [layer]), ...runs.map(({ layers }) => layers)];
    const readAhead = mergeReadAheadBytesMax / inputs.length;
    const merge = new LayerMerge(inputs.map((files) => new LayerCursor(files, this.#column, readAhead)));
    let prefix: KeyPrefix | null = null;
    let first = 0;
    let count = 0;
    for (let more = await merge.next(); more; ) {
      const { current } = merge;
      if (current.prefix !== prefix || current.block !== first + count - 1) {
        if (prefix === null || current.prefix !== prefix || current.block !== first + count || count >= runBlocksMax) {
          if (prefix !== null) await this.#write(prefix, first, count);
          signal.throwIfAborted();
          prefix = current.prefix;
          first = current.block;
          count = 0;
        }
        count++;
      }
      const next = merge.next();
      more = typeof next === 'boolean' ? next : await next;
    }
    if (prefix === null) return;
    await this.#write(prefix, first, count);
    // Nothing of it exists any more. To say so takes a layer, and a layer has a value.
    if (this.#writer.entryCount === 0) this.#add(prefix, first + count - 1, nothing);
    await this.#finish(end);
  }

  async #write(prefix: KeyPrefix, first: number, count: number): Promise<void> {
    const { view } = this.#parts;
    const existing = await this.#countExisting(prefix, first, count);
    const chains = existing === 0 ? [] : await gather(view, prefix, first, existing, this.#lsn + 1);
    for (let i = 0; i < count; i++) {
      const block = first + i;
      const chain = chains[i];
      const image = chain === undefined ? null : await this.#rebuild(chain);
      if (image === null && view.ancestor === null) continue;
      if (this.#writer.length >= this.#parts.targetBytes) await this.#nextTile({ prefix, block });
      this.#add(prefix, block, image ?? nothing);
    }
  }

  async #rebuild(chain: ValueChain): Promise<Uint8Array | null> {
    const { view, id } = this.#parts;
    const pause = this.#budget.spend(chain.lsns.length + 20);
    if (pause !== undefined) await pause;
    return reconstructWhenReady(chain, view.redo, null, id);
  }

  /** How many of these blocks, from the first one on, are in a relation or SLRU segment that has them at the LSN. */
  async #countExisting(prefix: KeyPrefix, first: number, count: number): Promise<number> {
    const hasSize =
      (prefix.kind === keyKind.rel && prefix.rel !== 0) || (prefix.kind === keyKind.slru && prefix.db !== 0);
    if (!hasSize || first === sizeBlock) return count;
    if (prefix !== this.#sizePrefix) {
      const [chain] = await gather(this.#parts.view, prefix, sizeBlock, 1, this.#lsn + 1);
      this.#size = decodeSize(await this.#rebuild(chain!), prefix);
      this.#sizePrefix = prefix;
    }
    return Math.max(0, Math.min(count, this.#size - first));
  }

  #add(prefix: KeyPrefix, block: number, image: Uint8Array): void {
    this.#writer.add(prefix, block, this.#lsn, valueKind.image, image, 0, image.length);
  }

  async #nextTile(start: Key): Promise<void> {
    await this.#finish(start);
    this.#tileStart = start;
    this.#writer = this.#newWriter();
  }

  async #finish(end: Key): Promise<void> {
    const layer = this.#writer.finish(this.#lsn, (this.#lsn + 1) as Lsn, { start: this.#tileStart, end });
    if (layer === null) return;
    this.#parts.signal.throwIfAborted();
    // Whoever takes it may take the bytes away.
    const { length } = layer.bytes;
    await this.#parts.put(layer, true);
    this.#parts.onProgress(length);
  }

  #newWriter(): LayerWriter {
    const { id, targetBytes } = this.#parts;
    return new LayerWriter('image', id, Math.ceil(targetBytes * 1.1));
  }
}
