/**
 * An object store that is told before and after each operation what is done to it, by someone who may delay it, make it fail, or end the process: between
 * the real store and what uses it. After the operation a failure means that its answer was lost.
 */
import { PageliteError } from '../../engine/errors.ts';
import { parseLayerFile } from '../../engine/layers/layer-name.ts';
import type { ObjectStore } from '../../engine/services.ts';
import type { SeededRandom } from './seeded-random.ts';

export type StoreOperation = 'put' | 'get' | 'head' | 'list' | 'delete';

export interface Faults {
  before(operation: StoreOperation, key: string): Promise<void>;
  after(operation: StoreOperation, key: string): Promise<void>;
}

export type ObjectKind = 'layer' | 'index' | 'claim' | 'other';

/** What faulty-pageserver.ts does: end at a step, or be slow and fail now and then. */
export type FaultPlan =
  | {
      readonly kind: 'end';
      readonly operation: StoreOperation;
      readonly object: ObjectKind;
      readonly when: 'before' | 'after';
      /** Of such operations since the plan was made, from 1. */
      readonly nth: number;
    }
  | { readonly kind: 'unreliable'; readonly delayMsMax: number; readonly failing: number };

export function objectKind(key: string): ObjectKind {
  const file = key.slice(key.lastIndexOf('/') + 1);
  if (file.startsWith('index_part.json')) return 'index';
  if (file.startsWith('generation-')) return 'claim';
  return parseLayerFile(file) === null ? 'other' : 'layer';
}

export class FaultyObjectStore implements ObjectStore {
  readonly #store: ObjectStore;
  readonly #faults: Faults;

  constructor(store: ObjectStore, faults: Faults) {
    this.#store = store;
    this.#faults = faults;
  }

  put(...args: Parameters<ObjectStore['put']>): Promise<string> {
    return this.#do('put', args[0], () => this.#store.put(...args));
  }
  get(...args: Parameters<ObjectStore['get']>): ReturnType<ObjectStore['get']> {
    return this.#do('get', args[0], () => this.#store.get(...args));
  }
  head(key: string): ReturnType<ObjectStore['head']> {
    return this.#do('head', key, () => this.#store.head(key));
  }
  list(prefix: string): ReturnType<ObjectStore['list']> {
    return this.#do('list', prefix, () => this.#store.list(prefix));
  }
  listFolders(folder: string): Promise<string[]> {
    return this.#do('list', folder, () => this.#store.listFolders(folder));
  }
  delete(key: string): Promise<void> {
    return this.#do('delete', key, () => this.#store.delete(key));
  }

  async #do<T>(operation: StoreOperation, key: string, work: () => Promise<T>): Promise<T> {
    await this.#faults.before(operation, key);
    const result = await work();
    await this.#faults.after(operation, key);
    return result;
  }
}

/** Some operations take a while, some fail, some succeed and nobody hears of it. */
export class RandomFaults implements Faults {
  readonly #random: SeededRandom;
  /** Of each operation, before it and after it. Whoever compacts reads much, and begins anew when a read fails. */
  #probability: { readonly reads: number; readonly writes: number };
  count = 0;

  constructor(random: SeededRandom, probability: { readonly reads: number; readonly writes: number }) {
    this.#random = random;
    this.#probability = probability;
  }

  stop(): void {
    this.#probability = { reads: 0, writes: 0 };
  }

  before(operation: StoreOperation, key: string): Promise<void> {
    return this.#maybe(operation, key);
  }

  after(operation: StoreOperation, key: string): Promise<void> {
    return this.#maybe(operation, key);
  }

  async #maybe(operation: StoreOperation, key: string): Promise<void> {
    const { reads, writes } = this.#probability;
    const probability = operation === 'put' || operation === 'delete' ? writes : reads;
    if (this.#random.chance(probability)) {
      for (let turns = this.#random.below(20); turns > 0; turns--) {
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    if (!this.#random.chance(probability)) return;
    this.count++;
    throw new PageliteError('unavailable', `object ${key}: made to fail at ${operation}`, { file: key });
  }
}
