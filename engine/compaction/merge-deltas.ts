/**
 * Flushed delta layers, and runs of a column, sorted by key into new delta layers (plan.ts).
 *
 * Every value stays. Where a page's values since the last one that stands for itself are many, its image as of the newest of them is put behind them, so
 * that a read of it redoes nothing.
 */
import { isPageliteError } from '../errors.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import { LayerWriter } from '../layers/layer-writer.ts';
import { formatKey, type KeyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { isSelfContained, valueKind } from '../model/value.ts';
import { gather } from '../timeline/gather.ts';
import { reconstructWhenReady, WorkBudget } from '../timeline/reconstruct.ts';
import type { CompactionParts } from './compaction-parts.ts';
import { LayerCursor } from './layer-cursor.ts';
import { LayerMerge } from './layer-merge.ts';
import type { CompactionJob, MergeColumn } from './plan.ts';

/** Values that are merged before others have a turn: about 10 ms. */
const valuesPerTurn = 4000;

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
  #prefix: KeyPrefix | null = null;
  #block = 0;
  #lsn = 0;
  /** Of the key, since its last value that stands for itself. */
  #records = 0;
  #bytes = 0;

  constructor(flushed: readonly LayerFile[], column: MergeColumn<LayerFile>, lsnEnd: Lsn, parts: CompactionParts) {
    this.#parts = parts;
    this.#column = column;
    this.#lsnEnd = lsnEnd;
    const inputs = [...flushed.map((file) => [file]), ...column.runs.map(({ layers }) => layers)];
    this.#merge = new LayerMerge(inputs.map((files) => new LayerCursor(files, column)));
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
        this.#prefix = value.prefix;
        this.#block = value.block;
      }
      this.#lsn = value.lsn;
      const { kind, valueLength } = value;
      if (isSelfContained(kind)) {
        this.#records = 0;
        this.#bytes = 0;
      }
      if (kind !== valueKind.image) {
        this.#records++;
        this.#bytes += valueLength;
      }
      this.#writer.add(value.prefix, value.block, value.lsn, kind, value.data.bytes, value.valueStart, valueLength);
      const next = this.#merge.next();
      more = typeof next === 'boolean' ? next : await next;
      if (values % valuesPerTurn === 0) {
        signal.throwIfAborted();
        await yieldTurn();
      }
    }
    await this.#endKey();
    await this.#finish();
  }

  /** The key has no more values: it may get an image, and the layer may be full. */
  #endKey(): Promise<void> | undefined {
    if (this.#prefix === null) return;
    const { chainRecordsMin, chainBytesMin, targetBytes } = this.#parts;
    const isLong = this.#records >= chainRecordsMin || this.#bytes >= chainBytesMin;
    this.#records = 0;
    this.#bytes = 0;
    if (isLong && !this.#column.isImageDue) return this.#addImage(this.#prefix, this.#block, this.#lsn);
    if (this.#writer.length >= targetBytes) return this.#rotate();
  }

  async #addImage(prefix: KeyPrefix, block: number, lsn: number): Promise<void> {
    const { id, view, log, targetBytes } = this.#parts;
    const [chain] = await gather(view, prefix, block, 1, lsn + 1);
    const pause = this.#budget.spend(chain!.lsns.length);
    if (pause !== undefined) await pause;
    try {
      const image = await reconstructWhenReady(chain!, view.redo, null, id);
      if (image !== null) this.#writer.add(prefix, block, lsn, valueKind.image, image, 0, image.length);
    } catch (error) {
      // That is for its readers to hear, and must not keep others from being merged.
      if (!isPageliteError(error, 'corrupt')) throw error;
      log.warn('a page cannot be rebuilt', { ...id, key: formatKey(prefix, block), error: error.message });
    }
    if (this.#writer.length >= targetBytes) await this.#rotate();
  }

  async #rotate(): Promise<void> {
    await this.#finish();
    this.#writer = this.#newWriter();
  }

  async #finish(): Promise<void> {
    const layer = this.#writer.finish(this.#column.lsnStart, this.#lsnEnd);
    if (layer === null) return;
    this.#parts.signal.throwIfAborted();
    // Whoever takes it may take the bytes away.
    const { length } = layer.bytes;
    await this.#parts.put(layer, false);
    this.#parts.onProgress(length);
  }

  #newWriter(): LayerWriter {
    const { id, targetBytes } = this.#parts;
    return new LayerWriter('delta', id, Math.ceil(targetBytes * 1.1));
  }
}
