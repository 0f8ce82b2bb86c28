/**
 * What has arrived of an import's layers. A layer comes in parts, in order; each is stored as it comes, and the last one makes the layer: put
 * together, checked, stored under its name, and its parts removed.
 *
 *   <layer file>             complete and checked (layers/layer-name.ts)
 *   <layer>.part-<offset>    bytes from there on
 *
 * Called by timeline-imports.ts, one call at a time for a timeline.
 */
import { must } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { parseLayerFile } from '../layers/layer-name.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { type LayerEntry, layerKey, timelineFolder } from '../timeline/index-part.ts';
import type { ManifestLayer } from './import-manifest.ts';
import { verifyLayer } from './verify-layer.ts';

interface Progress {
  readonly layer: ManifestLayer;
  /** Offsets of the parts that are stored. */
  parts: number[];
  received: number;
  /** Under which the whole layer is stored. */
  generation: number;
}

export interface ReceivedLayersParts {
  readonly id: TenantTimelineId;
  readonly layers: readonly ManifestLayer[];
  readonly store: ObjectStore;
  /** Of the tenant, now. */
  readonly generation: number;
  readonly yieldTurn: () => Promise<void>;
}

const partPattern = /^(.*)\.part-(\d{1,15})$/;

/** The name of the layer that a file is a part of; null if it is none. */
export const layerOfPart = (file: string): string | null => partPattern.exec(file)?.[1] ?? null;

export class ReceivedLayers {
  readonly #options: ReceivedLayersParts;
  readonly #folder: string;
  readonly #progress: Map<string, Progress>;

  private constructor(options: ReceivedLayersParts) {
    this.#options = options;
    this.#folder = timelineFolder(options.id);
    this.#progress = new Map(
      options.layers.map((layer) => [layer.name, { layer, parts: [], received: 0, generation: options.generation }]),
    );
  }

  /** What the store has already. */
  static async open(options: ReceivedLayersParts): Promise<ReceivedLayers> {
    const received = new ReceivedLayers(options);
    const parts = new Map<string, { offset: number; size: number }[]>();
    for (const { key, size } of await options.store.list(received.#folder)) {
      const file = key.slice(received.#folder.length);
      const stored = parseLayerFile(file);
      const whole = stored && received.#progress.get(stored.name);
      // Stored whole or not at all.
      if (stored && whole) Object.assign(whole, { received: size, generation: stored.generation });
      const part = partPattern.exec(file);
      if (part === null) continue;
      const list = parts.get(part[1]!) ?? [];
      list.push({ offset: Number(part[2]), size });
      parts.set(part[1]!, list);
    }
    for (const [name, list] of parts) received.#takeParts(name, list);
    return received;
  }

  /** As the index is to name them. */
  get entries(): LayerEntry[] {
    return [...this.#progress.values()].map(({ layer: { name, size, isComplete }, generation }) => {
      return { name, size, generation, isComplete };
    });
  }

  missing(): { name: string; received: number }[] {
    return [...this.#progress.values()]
      .filter(({ layer, received }) => received < layer.size)
      .map(({ layer, received }) => ({ name: layer.name, received }));
  }

  /** Bytes of the layer that are here now. Throws `invalid` if it is not one of the import's, is out of order, or not what was announced. */
  async put(name: string, offset: number, bytes: Uint8Array): Promise<number> {
    const progress = this.#progress.get(name);
    if (progress === undefined) throw this.#invalid(name, 'it is not on the list');
    const { layer, received } = progress;
    const end = offset + bytes.length;
    if (!Number.isSafeInteger(offset) || offset < 0 || end > layer.size) {
      throw this.#invalid(name, `bytes ${offset} to ${end} of ${layer.size}`);
    }
    // Sent again, since the answer was lost.
    if (end <= received) return received;
    if (offset !== received) throw this.#invalid(name, `bytes from ${offset} on, ${received} are here`, received);
    if (offset === 0 && end === layer.size) await this.#finish(progress, bytes);
    else await this.#addPart(progress, offset, bytes);
    return progress.received;
  }

  async #addPart(progress: Progress, offset: number, bytes: Uint8Array): Promise<void> {
    const { layer } = progress;
    if (offset + bytes.length < layer.size) {
      await this.#options.store.put(this.#partKey(layer.name, offset), bytes);
      progress.parts.push(offset);
      progress.received += bytes.length;
      return;
    }
    const whole = new Uint8Array(layer.size);
    for (const at of progress.parts) {
      const part = await this.#options.store.get(this.#partKey(layer.name, at));
      whole.set(must(part).bytes, at);
      await this.#options.yieldTurn();
    }
    whole.set(bytes, offset);
    await this.#finish(progress, whole);
  }

  async #finish(progress: Progress, bytes: Uint8Array): Promise<void> {
    const { id, store, generation, yieldTurn } = this.#options;
    const { layer } = progress;
    try {
      await verifyLayer(id, layer, bytes, yieldTurn);
    } catch (error) {
      // It is sent again from its start, or never.
      await this.#dropParts(progress);
      progress.received = 0;
      throw error;
    }
    progress.generation = generation;
    await store.put(layerKey(id, { name: layer.name, generation }), bytes);
    progress.received = layer.size;
    await this.#dropParts(progress);
  }

  async #dropParts(progress: Progress): Promise<void> {
    const { parts, layer } = progress;
    progress.parts = [];
    for (const offset of parts) await this.#options.store.delete(this.#partKey(layer.name, offset));
  }

  /** Those that follow on each other from the start. */
  #takeParts(name: string, list: { offset: number; size: number }[]): void {
    const progress = this.#progress.get(name);
    if (progress === undefined) return;
    const isWhole = progress.received === progress.layer.size;
    for (const { offset, size } of list.sort((a, b) => a.offset - b.offset)) {
      if (isWhole) progress.parts.push(offset);
      else if (offset === progress.received) {
        progress.parts.push(offset);
        progress.received += size;
      }
    }
  }

  #partKey(name: string, offset: number): string {
    return `${this.#folder}${name}.part-${offset}`;
  }

  #invalid(name: string, problem: string, received?: number): PageliteError {
    const data = { ...this.#options.id, layer: name, ...(received !== undefined && { received }) };
    return new PageliteError('invalid', `layer ${name.slice(0, 200)}: ${problem}`, data);
  }
}
