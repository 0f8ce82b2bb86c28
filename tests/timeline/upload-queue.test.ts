/**
 * The upload queue over a store with a staging disk before it.
 *
 * Must hold: an index in the store names only what is there, at every moment; changes under way together are stored as one; a store that is away is waited
 * for; once fenced, whoever waits, and whoever comes later, hears of it, and who does not wait breaks nothing.
 */
import { describe, expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import type { WrittenLayer } from '../../engine/layers/layer-writer.ts';
import { LayerWriter } from '../../engine/layers/layer-writer.ts';
import { nodeId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { keyKind, keyPrefix } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { valueKind } from '../../engine/model/value.ts';
import type { LayerStaging, ObjectStore } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import {
  decodeIndexPart,
  layerKey,
  newIndexPart,
  parseIndexFile,
  StoredIndex,
  timelineFolder,
} from '../../engine/timeline/index-part.ts';
import { claimTenant, TenantAttachment } from '../../engine/timeline/tenant-claims.ts';
import { UploadQueue } from '../../engine/timeline/upload-queue.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { TestClock } from '../support/test-clock.ts';

const id = { tenantId: tenantId('a'.repeat(32)), timelineId: timelineId('b'.repeat(32)) };
const prefix = keyPrefix(keyKind.rel, 1663, 5, 16384, 0);

function layer(n: number): WrittenLayer {
  const writer = new LayerWriter('delta', id, 1000);
  writer.add(prefix, n, (100 * n + 1) as Lsn, valueKind.image, new Uint8Array(10), 0, 10);
  return writer.finish((100 * n) as Lsn, (100 * n + 100) as Lsn)!;
}

/** Layers wait in memory; the store says when it is away. */
class Staged implements LayerStaging {
  readonly store = new MemoryObjectStore();
  readonly #here = new Map<string, Uint8Array>();
  away = false;
  puts = 0;

  /** What is on its disk, uploaded or not. */
  get keys(): string[] {
    return [...this.#here.keys()];
  }

  get stagedBytes(): number {
    return 0;
  }

  readonly counters = { downloads: 0, downloadedBytes: 0, evictions: 0, uploads: 0, uploadedBytes: 0 };

  residentBytesOf(): number {
    return 0;
  }

  async stage(key: string, bytes: Uint8Array): Promise<void> {
    this.#here.set(key, bytes);
  }

  async upload(key: string): Promise<void> {
    this.#check();
    await this.store.put(key, this.#here.get(key)!);
  }

  /** As the queue sees it: after each put of an index, everything that it names is there. */
  get checked(): ObjectStore {
    const { store } = this;
    return Object.assign(Object.create(store) as ObjectStore, {
      get: (key: string) => store.get(key),
      list: (key: string) => store.list(key),
      delete: (key: string) => {
        this.#here.delete(key);
        return store.delete(key);
      },
      put: async (key: string, bytes: Uint8Array, condition?: { ifAbsent: true }) => {
        this.#check();
        if (parseIndexFile(key.slice(timelineFolder(id).length)) !== null) {
          this.puts++;
          for (const entry of decodeIndexPart(bytes, key).layers) {
            expect(await store.get(layerKey(id, entry)), entry.name).not.toBeNull();
          }
        }
        return store.put(key, bytes, condition);
      },
    });
  }

  #check(): void {
    if (this.away) throw new PageliteError('unavailable', 'away');
  }
}

async function open(staged: Staged) {
  const store = staged.checked;
  const generation = await claimTenant(staged.store, id.tenantId, nodeId(1));
  const part = newIndexPart({ systemIdentifier: 1n, lsn: 8 as Lsn, prevRecordLsn: 0 as Lsn });
  const index = await StoredIndex.create(store, id, generation, part);
  const clock = new TestClock();
  const failures: Error[] = [];
  const queue = new UploadQueue({
    index,
    store,
    staging: staged,
    attachment: new TenantAttachment(staged.store, id.tenantId, generation),
    clock,
    log: silentLog,
    signal: new AbortController().signal,
    readersGone: async () => {},
    onStored: () => {},
    onFailure: (error) => failures.push(error),
  });
  const add = async (n: number) => {
    const entry = await queue.addLayer(layer(n));
    return queue.change((before) => ({ ...before, layers: [...before.layers, entry] }));
  };
  return { queue, add, clock, failures };
}

describe('the upload queue', () => {
  it('stores changes that come together as few, layers before the index that names them', async () => {
    const staged = new Staged();
    const { queue, add } = await open(staged);
    const before = staged.puts;
    await Promise.all(Array.from({ length: 20 }, (_, i) => add(i)));
    expect(queue.storedPart.layers).toHaveLength(20);
    expect(staged.puts - before).toBeLessThan(20);
    await queue.change((part) => ({ ...part, layers: part.layers.slice(15) }));
    await queue.settled();
    const names = (await staged.store.list(timelineFolder(id))).filter(({ key }) => key.includes('__'));
    expect(names).toHaveLength(5);
  });

  it('stores a change that comes as the one before is done', async () => {
    const { queue, add } = await open(new Staged());
    await add(1);
    let second: Promise<void> | undefined;
    await queue
      .change((part) => part)
      .then(() => {
        second = queue.change((part) => ({ ...part, gcCutoffLsn: 16 as Lsn }));
      });
    await second;
    expect(queue.storedPart.gcCutoffLsn).toBe(16);
  }, 5_000);

  it('waits for a store that is away', async () => {
    const staged = new Staged();
    const { queue, add, clock } = await open(staged);
    staged.away = true;
    const added = add(1);
    await expect.poll(() => queue.status.lastError).toBe('away');
    expect(queue.part.layers).toHaveLength(1);
    expect(queue.storedPart.layers).toHaveLength(0);
    expect(queue.status).toMatchObject({ waitingLayers: 1 });
    staged.away = false;
    await clock.runUntilIdle();
    await added;
    expect(queue.status).toMatchObject({ waitingLayers: 0, lastError: null });
  });

  it('removes a layer that was dropped before an index with it came to be stored', async () => {
    const staged = new Staged();
    const { queue, add, clock } = await open(staged);
    await add(1);
    staged.away = true;
    const changed = queue.change((part) => ({ ...part, gcCutoffLsn: 16 as Lsn }));
    await expect.poll(() => queue.status.lastError).toBe('away');
    // The index without it is what waits to be stored.
    void add(2);
    await expect.poll(() => queue.part.layers.length).toBe(2);
    const merged = queue.change((part) => ({ ...part, layers: part.layers.slice(0, 1) }));
    staged.away = false;
    await clock.runUntilIdle();
    await Promise.all([changed, merged]);
    await queue.settled();
    expect(queue.status).toEqual({ waitingLayers: 0, waitingBytes: 0, deleting: 0, lastError: null });
    expect(staged.keys).toEqual([layerKey(id, queue.part.layers[0]!)]);
  });

  it('keeps a layer that is written again before what a crash left of it came to be removed', async () => {
    const staged = new Staged();
    const { queue } = await open(staged);
    const entry = await queue.addLayer(layer(1));
    // One that counts later, one that is there, one that is being written.
    const key = layerKey(id, await queue.addLayer(layer(2)));
    const written = queue.addLayer(layer(3));
    await queue.removeLeftovers([layerKey(id, entry), key, layerKey(id, { ...entry, name: layer(3).name })]);
    const entries = [entry, await written];
    await queue.change((part) => ({ ...part, layers: entries }));
    await queue.removeLeftovers(entries.map((one) => layerKey(id, one)));
    await queue.settled();
    expect(staged.keys).toEqual([layerKey(id, entry), key, layerKey(id, entries[1]!)]);
  });

  it('is fenced for good: who waits hears of it, who comes later too, and who does not wait breaks nothing', async () => {
    const staged = new Staged();
    const { queue, add, failures } = await open(staged);
    await claimTenant(staged.store, id.tenantId, nodeId(2));
    await expect(add(1)).rejects.toMatchObject({ kind: 'fenced' });
    expect(failures).toMatchObject([{ kind: 'fenced' }]);
    await expect(add(2)).rejects.toMatchObject({ kind: 'fenced' });
    // Nobody waits for it.
    void queue.change((part) => part);
    await expect(queue.idle()).rejects.toMatchObject({ kind: 'fenced' });
  });
});
