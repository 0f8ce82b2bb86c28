/**
 * Images for pages with long chains of records, made in the background after a flush, so that reading such a page does not redo its records.
 *
 * What wants an image is found in two ways: every new delta layer is looked through once (`imagedLsn` of the index says up to where, so a
 * crash forgets nothing), and reads tell of keys for which they had to redo many records out of files. The images are as of
 * diskConsistentLsn and are written as sparse image layers (layers/image-layer.ts). Compaction, which also merges layers, is a matter of its own.
 *
 * Invariants:
 * - every run is as of an LSN above that of the run before, and its files have disjoint key ranges
 * - it only adds: images can be lost or made twice without harm
 */
import { isPageliteError, messageOf } from '../errors.ts';
import { ImageLayerWriter } from '../layers/image-layer.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import type { ValueChain } from '../layers/value-chain.ts';
import { comparePrefixes, formatKey, type KeyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { isSelfContained, type ValueKind } from '../model/value.ts';
import type { Clock, Log } from '../services.ts';
import { gather } from './gather.ts';
import type { LayerEntry } from './index-part.ts';
import { reconstructWhenReady, WorkBudget, type YieldTurn } from './reconstruct.ts';
import type { Timeline } from './timeline.ts';
import type { UploadQueue } from './upload-queue.ts';

export interface ImageLimits {
  readonly imageChainRecordsMin: number;
  readonly imageChainBytesMin: number;
  readonly imageLayerBytesMax: number;
}

export interface ImageCreationParts {
  readonly timeline: Timeline;
  readonly uploads: UploadQueue;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits: ImageLimits;
  readonly yieldTurn: YieldTurn;
  readonly signal: AbortSignal;
  openLayer(layer: LayerEntry): LayerFile;
  /** Resolves when no read is being served, or soon. */
  yieldToReads(): Promise<void>;
}

/** Blocks of a delta layer that are looked through before others run. */
const scanBlocksPerTurn = 64;
/** Pages of one relation gathered together. */
const runBlocksMax = 32;

type KeySet = Map<KeyPrefix, Set<number>>;

export class ImageCreation {
  readonly #parts: ImageCreationParts;
  /** Keys that want an image, from reads. */
  #wanted: KeySet = new Map();
  #running: Promise<void> | null = null;

  constructor(parts: ImageCreationParts) {
    this.#parts = parts;
  }

  /** A read redid a long chain of records for this key. */
  want(prefix: KeyPrefix, block: number): void {
    addKey(this.#wanted, prefix, block);
  }

  /** Starts a run if there is something new in files. */
  kick(): void {
    const { timeline, uploads, clock, signal } = this.#parts;
    if (this.#running !== null || signal.aborted || uploads.part.imagedLsn >= timeline.diskConsistentLsn) return;
    this.#running = timeline.counters.createImages
      .time(clock, () => this.#run())
      .catch((error) => {
        // Without images everything still reads, slower. The next flush tries again.
        if (!signal.aborted)
          this.#parts.log.error('image creation failed', { ...timeline.id, error: messageOf(error) });
        return false;
      })
      .then((again) => {
        this.#running = null;
        if (again) this.kick();
      });
  }

  /** Resolves when no run is under way. */
  async idle(): Promise<void> {
    while (this.#running !== null) await this.#running;
  }

  /** True if there may be more to do. */
  async #run(): Promise<boolean> {
    const { timeline, uploads } = this.#parts;
    const lsn = timeline.diskConsistentLsn;
    const { imagedLsn } = uploads.part;
    const keys = this.#wanted;
    this.#wanted = new Map();
    for (const file of timeline.layers.files.layers()) {
      if (file.desc.kind === 'delta' && file.desc.lsnEnd > imagedLsn + 1) await this.#findLongChains(file, keys);
    }
    const entries = await this.#writeImages(keys, lsn);
    const stored = uploads.change((part) => ({
      ...part,
      // Layers from elsewhere may have come meanwhile, with images of their own.
      imagedLsn: Math.max(part.imagedLsn, lsn) as Lsn,
      layers: [...part.layers, ...entries],
    }));
    if (!uploads.isStaged) await stored;
    const files = entries.map((entry) => this.#parts.openLayer(entry));
    if (files.length > 0) timeline.filesChanged(files, []);
    return true;
  }

  /** Adds the keys whose versions in this file end in a long chain. */
  async #findLongChains(file: LayerFile, keys: KeySet): Promise<void> {
    const { imageChainRecordsMin, imageChainBytesMin } = this.#parts.limits;
    const { blockCount } = await file.open();
    let lastPrefix: KeyPrefix | null = null;
    let lastBlock = 0;
    let records = 0;
    let bytes = 0;
    for (let from = 0; from < blockCount; from += scanBlocksPerTurn) {
      this.#throwIfClosed();
      const held = await file.holdBlocks(from, Math.min(blockCount, from + scanBlocksPerTurn) - 1);
      for (const data of held.blocks) {
        for (let p = 0; p < data.prefixes.length; p++) {
          const prefix = data.prefixes[p]!;
          for (let i = data.prefixFirst[p]!; i < data.prefixFirst[p + 1]!; i++) {
            if (prefix !== lastPrefix || data.blocks[i] !== lastBlock) {
              if (lastPrefix !== null && (records >= imageChainRecordsMin || bytes >= imageChainBytesMin)) {
                addKey(keys, lastPrefix, lastBlock);
              }
              lastPrefix = prefix;
              lastBlock = data.blocks[i]!;
              records = 0;
              bytes = 0;
            }
            if (data.kinds[i] === 0) {
              // An image: nothing has to be redone below it.
              records = 0;
              bytes = 0;
              continue;
            }
            if (isSelfContained(data.kinds[i] as ValueKind)) {
              records = 0;
              bytes = 0;
            }
            records++;
            bytes += data.valueLength(i);
          }
        }
      }
      await this.#parts.yieldTurn();
    }
    if (lastPrefix !== null && (records >= imageChainRecordsMin || bytes >= imageChainBytesMin)) {
      addKey(keys, lastPrefix, lastBlock);
    }
  }

  async #writeImages(keys: KeySet, lsn: Lsn): Promise<LayerEntry[]> {
    const { timeline, limits } = this.#parts;
    const entries: LayerEntry[] = [];
    let left = 0;
    for (const blocks of keys.values()) left += blocks.size;
    const newWriter = () =>
      new ImageLayerWriter(timeline.id, lsn, Math.min(limits.imageLayerBytesMax + 65536, left * 8400 + 4096));
    let writer = newWriter();
    const finish = async () => {
      const written = writer.finish();
      if (written === null) return;
      entries.push(await this.#parts.uploads.addLayer(written));
    };
    const budget = new WorkBudget(() => this.#parts.yieldToReads());
    for (const prefix of [...keys.keys()].sort(comparePrefixes)) {
      const blocks = [...keys.get(prefix)!].sort((a, b) => a - b);
      for (let i = 0; i < blocks.length; ) {
        this.#throwIfClosed();
        let end = i + 1;
        while (end < blocks.length && end - i < runBlocksMax && blocks[end] === blocks[end - 1]! + 1) end++;
        const chains = await gather(timeline, prefix, blocks[i]!, end - i, lsn + 1);
        for (const chain of chains) {
          const pause = budget.spend(chain.lsns.length + 20);
          if (pause !== undefined) await pause;
          left--;
          const image = await this.#rebuild(chain);
          if (image !== null) writer.add(prefix, chain.block, image);
          if (writer.length >= limits.imageLayerBytesMax) {
            await finish();
            writer = newWriter();
          }
        }
        i = end;
      }
    }
    await finish();
    return entries;
  }

  /** Null also for a page that cannot be rebuilt: that is for its readers to hear, and must not keep others from their images. */
  async #rebuild(chain: ValueChain): Promise<Uint8Array | null> {
    const { timeline, log } = this.#parts;
    try {
      return await reconstructWhenReady(chain, timeline.redo, null, timeline.id);
    } catch (error) {
      if (!isPageliteError(error, 'corrupt')) throw error;
      const key = formatKey(chain.prefix, chain.block);
      log.warn('a page cannot be rebuilt', { ...timeline.id, key, error: error.message });
      return null;
    }
  }

  #throwIfClosed(): void {
    this.#parts.signal.throwIfAborted();
  }
}

function addKey(keys: KeySet, prefix: KeyPrefix, block: number): void {
  let blocks = keys.get(prefix);
  if (blocks === undefined) {
    blocks = new Set();
    keys.set(prefix, blocks);
  }
  blocks.add(block);
}
