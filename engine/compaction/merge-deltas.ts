/**
 * Flushed delta layers, and runs of a column, sorted by key into new delta layers (plan.ts).
 *
 * Every value stays. Where a page's values since the last one that stands for itself are many, its image as of the newest of them is put behind them, so
 * that a read of it redoes nothing.
 *
 * A layer is closed between two keys, and one that has more values than a layer holds has layers of its own, one above another: each of them is full, has all
 * values of an LSN range, and ends with the key's image, so that a read looks into two of them at most (`sealed`, columns.ts).
 *
 * Invariants:
 * - a layer is at most `layerSlack` times the target size, or the target and what one LSN has of one key
 * - a layer has all values of its rectangle: what is written of a key that has sealed layers is in layers of its own, around those (`gaps`)
 * - memory is that of one layer and of what the inputs read ahead: values of the key under way are views of what was read
 */
import { assert } from '../assert.ts';
import { isPageliteError } from '../errors.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import { LayerWriter } from '../layers/layer-writer.ts';
import { mergeReadAheadBytesMax, pageSize } from '../limits.ts';
import { comparePrefixes, formatKey, type Key, type KeyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { isSelfContained, type ValueKind, valueKind } from '../model/value.ts';
import { gather } from '../timeline/gather.ts';
import { reconstructWhenReady, WorkBudget } from '../timeline/reconstruct.ts';
import type { CompactionParts } from './compaction-parts.ts';
import { LayerCursor } from './layer-cursor.ts';
import { LayerMerge } from './layer-merge.ts';
import type { CompactionJob, KeyGap, MergeColumn } from './plan.ts';

/** Values that are merged before others have a turn: about 10 ms. */
const valuesPerTurn = 4000;
/** How much larger than asked for a layer may get, for the sake of keys that are not cut. */
const layerSlack = 1.25;
/** In a column that is going to get images, a key with fewer bytes gets none within its deltas. */
const ownImageBytesMin = 2 * pageSize;

/** Resolves when all layers are put. */
export async function mergeDeltas(
  job: Extract<CompactionJob<LayerFile>, { kind: 'mergeDeltas' }>,
  parts: CompactionParts,
): Promise<void> {
  for (const column of job.columns) await new ColumnMerge(job.flushed, column, job.lsnEnd, parts).run();
}

class ColumnMerge {
  readonly #parts: CompactionParts;
  readonly #column: MergeColumn<LayerFile>;
  readonly #lsnEnd: Lsn;
  readonly #merge: LayerMerge;
  readonly #budget: WorkBudget;
  #writer: LayerWriter;
  /** Of the layer that is written. */
  #lsnStart: Lsn;
  /** The first of `gaps` that is not passed. */
  #gap = 0;
  #prefix: KeyPrefix | null = null;
  #block = 0;
  #lsn = 0;
  #kind: ValueKind = valueKind.image;
  /** Of the key, since its last value that stands for itself. */
  #records = 0;
  #bytes = 0;
  /** What the key has so far, unless it has layers of its own: then it is in the writer. */
  readonly #held: KeyValues = new KeyValues();
  #isApart = false;

  constructor(flushed: readonly LayerFile[], column: MergeColumn<LayerFile>, lsnEnd: Lsn, parts: CompactionParts) {
    this.#parts = parts;
    this.#column = column;
    this.#lsnEnd = lsnEnd;
    this.#lsnStart = column.lsnStart;
    const inputs = [...flushed.map((file) => [file]), ...column.runs.map(({ layers }) => layers)];
    const readAhead = mergeReadAheadBytesMax / inputs.length;
    this.#merge = new LayerMerge(inputs.map((files) => new LayerCursor(files, column, readAhead)));
    this.#budget = new WorkBudget(parts.yieldTurn);
    this.#writer = this.#newWriter();
  }

  async run(): Promise<void> {
    const { signal, yieldTurn } = this.#parts;
    for (let values = 1, more = await this.#merge.next(); more; values++) {
      const value = this.#merge.current;
      if (value.prefix !== this.#prefix || value.block !== this.#block) {
        const pause = this.#endKey();
        if (pause !== undefined) await pause;
        const { prefix, block } = value;
        this.#prefix = prefix;
        this.#block = block;
        const cut = this.#passGaps(prefix, block);
        if (cut !== undefined) await cut;
      } else if (value.lsn !== this.#lsn) {
        if (this.#isAtGap(value.lsn)) await this.#passGapsOfKey();
        if (this.#isFull) await this.#cutKey();
      }
      const { kind, valueLength, lsn } = value;
      this.#lsn = lsn;
      this.#kind = kind;
      if (isSelfContained(kind)) {
        this.#records = 0;
        this.#bytes = 0;
      }
      if (kind !== valueKind.image) {
        this.#records++;
        this.#bytes += valueLength;
      }
      const { bytes } = value.data;
      if (this.#isApart) {
        this.#writer.add(value.prefix, value.block, lsn, kind, bytes, value.valueStart, valueLength);
      } else {
        this.#held.add(lsn, kind, bytes, value.valueStart, valueLength);
      }
      const next = this.#merge.next();
      more = typeof next === 'boolean' ? next : await next;
      if (values % valuesPerTurn === 0) {
        signal.throwIfAborted();
        await yieldTurn();
      }
    }
    await this.#endKey();
    await this.#finish(this.#lsnEnd);
  }

  /** The key's values are as many as a layer holds. */
  get #isFull(): boolean {
    return (this.#isApart ? this.#writer.length : this.#held.bytes) >= this.#parts.targetBytes;
  }

  /** The key goes on, in the next layer up. */
  async #cutKey(): Promise<void> {
    await this.#setApart();
    if (this.#writer.length < this.#parts.targetBytes) return;
    await this.#addImage(false);
    this.#records = 0;
    this.#bytes = 0;
    const lsnEnd = (this.#lsn + 1) as Lsn;
    await this.#rotate(lsnEnd);
    this.#lsnStart = lsnEnd;
  }

  /** The key gets layers of its own. */
  async #setApart(): Promise<void> {
    if (this.#isApart) return;
    await this.#rotate(this.#lsnEnd);
    this.#isApart = true;
    this.#held.moveTo(this.#writer, this.#prefix!, this.#block);
  }

  /** The key has no more values: it may get an image, and the layer may be full. */
  #endKey(): Promise<void> | undefined {
    if (this.#prefix === null) return;
    const { chainRecordsMin, chainBytesMin, targetBytes } = this.#parts;
    const isLong = this.#records >= chainRecordsMin || this.#bytes >= chainBytesMin;
    this.#records = 0;
    this.#bytes = 0;
    if (this.#isApart) return this.#endApart();
    const { bytes } = this.#held;
    if (isLong && (bytes >= ownImageBytesMin || !this.#column.isImageDue)) return this.#endLong();
    if (this.#writer.length + bytes >= targetBytes) return this.#endFull();
    this.#held.moveTo(this.#writer, this.#prefix, this.#block);
  }

  async #endApart(): Promise<void> {
    await this.#addImage(false);
    await this.#rotate(this.#gapOfKey?.lsnStart ?? this.#lsnEnd);
    this.#lsnStart = this.#column.lsnStart;
    this.#isApart = false;
  }

  async #endLong(): Promise<void> {
    await this.#addImage(true);
    await this.#endFull();
  }

  /** The key goes into the layer, or into the next one. */
  async #endFull(): Promise<void> {
    const { targetBytes } = this.#parts;
    if (this.#writer.length + this.#held.bytes >= layerSlack * targetBytes) await this.#rotate(this.#lsnEnd);
    this.#held.moveTo(this.#writer, this.#prefix!, this.#block);
    if (this.#writer.length >= targetBytes) await this.#rotate(this.#lsnEnd);
  }

  /** Of keys with gaps a layer has nothing else; no layer goes across one. */
  #passGaps(prefix: KeyPrefix, block: number): Promise<void> | undefined {
    const { gaps } = this.#column;
    const before = this.#gap;
    while (this.#gap < gaps.length && isBelow(gaps[this.#gap]!.key, prefix, block)) this.#gap++;
    if (this.#gapOfKey !== null) return this.#setApart().then(() => this.#passGapsOfKey());
    if (this.#gap > before) return this.#rotate(this.#lsnEnd);
  }

  /** The next one of the key under way. */
  get #gapOfKey(): KeyGap | null {
    const gap = this.#column.gaps[this.#gap];
    return gap !== undefined && gap.key.prefix === this.#prefix && gap.key.block === this.#block ? gap : null;
  }

  #isAtGap(lsn: number): boolean {
    const gap = this.#column.gaps[this.#gap];
    return gap !== undefined && lsn >= gap.lsnStart && this.#gapOfKey !== null;
  }

  /** The merge stands on a value of the key: layers end below the gaps below it, and the next one begins above them. */
  async #passGapsOfKey(): Promise<void> {
    const { lsn } = this.#merge.current;
    for (let gap = this.#gapOfKey; gap !== null && lsn >= gap.lsnStart; gap = this.#gapOfKey) {
      assert(lsn >= gap.lsnEnd, 'a sealed layer has all values of its rectangle');
      if (this.#writer.entryCount > 0) {
        await this.#addImage(false);
        await this.#rotate(gap.lsnStart);
        this.#records = 0;
        this.#bytes = 0;
      }
      this.#lsnStart = gap.lsnEnd;
      this.#gap++;
    }
  }

  /** The key's image behind its last value, unless that stands for itself. */
  async #addImage(isHeld: boolean): Promise<void> {
    if (this.#kind === valueKind.image) return;
    const { id, view, log } = this.#parts;
    const [prefix, block, lsn] = [this.#prefix!, this.#block, this.#lsn];
    try {
      const [chain] = await gather(view, prefix, block, 1, lsn + 1);
      const pause = this.#budget.spend(chain!.lsns.length);
      if (pause !== undefined) await pause;
      const image = await reconstructWhenReady(chain!, view.redo, null, id);
      if (image === null) return;
      if (isHeld) this.#held.add(lsn, valueKind.image, image, 0, image.length);
      else this.#writer.add(prefix, block, lsn, valueKind.image, image, 0, image.length);
    } catch (error) {
      // That is for its readers to hear, and must not keep others from being merged.
      if (!isPageliteError(error, 'corrupt')) throw error;
      log.warn('a page cannot be rebuilt', { ...id, key: formatKey(prefix, block), error: error.message });
    }
  }

  async #rotate(lsnEnd: Lsn): Promise<void> {
    if (this.#writer.entryCount === 0) return;
    await this.#finish(lsnEnd);
    this.#writer = this.#newWriter();
  }

  async #finish(lsnEnd: Lsn): Promise<void> {
    const layer = this.#writer.finish(this.#lsnStart, lsnEnd);
    if (layer === null) return;
    this.#parts.signal.throwIfAborted();
    // Whoever takes it may take the bytes away.
    const { length } = layer.bytes;
    await this.#parts.put(layer, false);
    this.#parts.onProgress(length);
  }

  #newWriter(): LayerWriter {
    const { id, targetBytes } = this.#parts;
    return new LayerWriter('delta', id, Math.ceil(targetBytes * layerSlack * 1.05));
  }
}

/** Values of one key. */
class KeyValues {
  readonly #lsns: number[] = [];
  readonly #kinds: ValueKind[] = [];
  readonly #data: Uint8Array[] = [];
  readonly #starts: number[] = [];
  readonly #lengths: number[] = [];
  bytes = 0;

  /** The bytes stay as they are. */
  add(lsn: number, kind: ValueKind, data: Uint8Array, start: number, length: number): void {
    this.#lsns.push(lsn);
    this.#kinds.push(kind);
    this.#data.push(data);
    this.#starts.push(start);
    this.#lengths.push(length);
    this.bytes += length + valueOverheadBytes;
  }

  moveTo(writer: LayerWriter, prefix: KeyPrefix, block: number): void {
    for (let i = 0; i < this.#lsns.length; i++) {
      writer.add(prefix, block, this.#lsns[i]!, this.#kinds[i]!, this.#data[i]!, this.#starts[i]!, this.#lengths[i]!);
    }
    for (const list of [this.#lsns, this.#kinds, this.#data, this.#starts, this.#lengths]) list.length = 0;
    this.bytes = 0;
  }
}

/** What a layer has of a value beside its bytes. */
const valueOverheadBytes = 17;

function isBelow(key: Key, prefix: KeyPrefix, block: number): boolean {
  if (key.prefix === prefix) return key.block < block;
  return comparePrefixes(key.prefix, prefix) < 0;
}
