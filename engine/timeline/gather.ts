/**
 * R8. Gathers what values are rebuilt from: image, records and patches, down the layers of a timeline and then of its ancestors.
 *
 * Called by the page service and by ingest for one key, or for a run of blocks of one relation: the layer map is then asked once per layer
 * and not once per page. Synchronous if everything is resident; otherwise each missing piece is awaited and the walk goes on.
 *
 *   memory layers, newest first -> layer files as the LayerMap says -> ancestor at the branch point (its memory layers, ...)
 *
 * Invariants:
 * - the layers are those of the moment at which the timeline was entered, whatever is flushed meanwhile
 * - a chain holds versions in [0, lsnEnd), newest first, without a gap down to its last
 * - a key that a complete image layer does not have did not exist at its LSN: in a timeline without an ancestor the search ends there
 */
import type { TimelineCounters } from '../counters.ts';
import { throwIfCancelled } from '../in-time.ts';
import type { InMemoryLayer } from '../layers/in-memory-layer.ts';
import type { HeldBlocks, LayerFile } from '../layers/layer-file.ts';
import type { LayerMap, SearchResult } from '../layers/layer-map.ts';
import { ValueChain } from '../layers/value-chain.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { KeyPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { valueKind } from '../model/value.ts';
import type { PageService } from '../services.ts';
import type { PageVersions } from './page-versions.ts';
import type { ReaderEpoch, Readers } from './readers.ts';

/** A timeline's layers at one moment. */
export interface LayerSnapshot {
  /** Newest first. */
  readonly memory: readonly InMemoryLayer[];
  readonly files: LayerMap<LayerFile>;
  /** Exclusive: all values in `files` are below it, all in `memory` at or above. */
  readonly filesLsnEnd: Lsn;
}

/** What is read of a timeline. */
export interface TimelineView {
  readonly id: TenantTimelineId;
  readonly layers: LayerSnapshot;
  readonly versions: PageVersions;
  readonly ancestor: Ancestor | null;
  /** Reads that wait for something while they use the layers. */
  readonly readers: Readers;
  readonly counters: TimelineCounters;
  /** Resolves when all WAL up to `lsn` is ingested; undefined if it is already. */
  waitLsn(lsn: Lsn, signal?: AbortSignal): Promise<void> | undefined;
}

/** Where a branch reads what it did not change: a timeline of this process, or any other PageService. */
export type Ancestor =
  | {
      readonly kind: 'local';
      readonly lsn: Lsn;
      readonly open: () => TimelineView;
      /** While it begins anew in its place: resolves when it can be opened again. Undefined, or absent: it can be now. Rejects as `waitLsn`. */
      readonly whenBegun?: (signal?: AbortSignal) => Promise<void> | undefined;
      /** Everything that it has ingested is in layer files afterwards. */
      readonly flush?: () => Promise<void>;
    }
  | { readonly kind: 'remote'; readonly lsn: Lsn; readonly service: PageService };

const nothing = new Uint8Array(0);

/** A run of blocks that the files are still to be searched for. */
interface Item {
  first: number;
  end: number;
  lsnEnd: number;
  imageEnd: number;
}

/** Versions below `lsnEnd` of blocks [firstBlock, firstBlock + count) of `prefix`, one chain each. */
export function gather(
  view: TimelineView,
  prefix: KeyPrefix,
  firstBlock: number,
  count: number,
  lsnEnd: number,
  signal?: AbortSignal,
): ValueChain[] | Promise<ValueChain[]> {
  return new Gather(view, prefix, firstBlock, count, lsnEnd, signal).run();
}

class Gather {
  readonly #chains: ValueChain[] = [];
  readonly #prefix: KeyPrefix;
  readonly #firstBlock: number;
  readonly #signal: AbortSignal | undefined;
  /** Of the timeline that is read, whichever of its ancestors is looked into. */
  readonly #counters: TimelineCounters;
  #view: TimelineView;
  #files: LayerMap<LayerFile>;
  /** As it was when the layers were looked at: a branch may be detached meanwhile. */
  #ancestor: Ancestor | null;
  #work: Item[] = [];
  /** Of the timelines whose layers are held; null: nothing was waited for yet. */
  #held: { readonly readers: Readers; readonly epoch: ReaderEpoch }[] | null = null;

  constructor(
    view: TimelineView,
    prefix: KeyPrefix,
    firstBlock: number,
    count: number,
    lsnEnd: number,
    signal: AbortSignal | undefined,
  ) {
    for (let i = 0; i < count; i++) this.#chains.push(new ValueChain(prefix, firstBlock + i));
    this.#prefix = prefix;
    this.#firstBlock = firstBlock;
    this.#signal = signal;
    this.#counters = view.counters;
    this.#view = view;
    this.#files = view.layers.files;
    this.#ancestor = view.ancestor;
    this.#enter(view, lsnEnd);
  }

  run(): ValueChain[] | Promise<ValueChain[]> {
    const wait = this.#advance();
    return wait === done ? this.#chains : this.#runOn(wait);
  }

  /** As far as it goes without waiting. */
  #advance(): Promise<void> | typeof done {
    for (;;) {
      const item = this.#work.at(-1);
      const wait = item === undefined ? this.#descend() : this.#searchFiles(item);
      if (wait === done) this.#countReads();
      if (wait !== undefined) return wait;
    }
  }

  /** From the first wait on the layers are held. */
  async #runOn(first: Promise<void>): Promise<ValueChain[]> {
    this.#held = [];
    this.#hold(this.#view);
    try {
      for (let wait: Promise<void> | typeof done = first; wait !== done; wait = this.#advance()) await wait;
      return this.#chains;
    } finally {
      for (const { readers, epoch } of this.#held) readers.leave(epoch);
    }
  }

  #hold({ readers }: TimelineView): void {
    this.#held?.push({ readers, epoch: readers.enter() });
  }

  /** Looks through the memory layers of `view`; the rest is left to its files. */
  #enter(view: TimelineView, lsnEnd: number): void {
    const { memory, files, filesLsnEnd } = view.layers;
    if (view !== this.#view) this.#hold(view);
    this.#view = view;
    this.#files = files;
    this.#ancestor = view.ancestor;
    for (const chain of this.#chains) {
      if (chain.complete) continue;
      const version = chain.knownLsn < 0 ? view.versions.find(chain.prefix, chain.block, lsnEnd) : null;
      if (version !== null) {
        chain.knownLsn = version.lsn;
        chain.known = version;
      }
      for (let i = 0; i < memory.length && !chain.complete; i++) {
        chain.layersVisited++;
        memory[i]!.collect(chain, chain.knownLsn + 1, lsnEnd);
      }
    }
    const fileEnd = Math.min(lsnEnd, filesLsnEnd);
    this.#work.push({
      first: this.#firstBlock,
      end: this.#firstBlock + this.#chains.length,
      lsnEnd: fileEnd,
      imageEnd: fileEnd,
    });
  }

  /** One layer further down for one run of blocks. */
  #searchFiles(item: Item): Promise<void> | undefined {
    while (item.first < item.end && this.#isSettled(item.first, item.lsnEnd)) item.first++;
    while (item.first < item.end && this.#isSettled(item.end - 1, item.lsnEnd)) item.end--;
    if (item.first === item.end) {
      this.#work.pop();
      return;
    }
    const found = this.#files.search(this.#prefix, item.first, item.lsnEnd, item.imageEnd);
    if (found.blockEnd < item.end) {
      // Further on the layers differ: that part goes its own way.
      this.#work.unshift({ ...item, first: found.blockEnd });
      item.end = found.blockEnd;
    }
    const { layer } = found;
    if (layer === null) {
      this.#work.pop();
      return;
    }
    const isImage = layer.desc.kind === 'image';
    const from = isImage ? layer.desc.lsnStart : found.lsnEnd;
    const to = isImage ? layer.desc.lsnEnd : item.lsnEnd;
    const held = layer.hold(this.#prefix, item.first, item.end - 1, from, to);
    if (held instanceof Promise) {
      return held.then((blocks) => {
        throwIfCancelled(this.#signal);
        this.#visit(item, layer, blocks, from, to, found);
      });
    }
    this.#visit(item, layer, held, from, to, found);
  }

  #visit(
    item: Item,
    layer: LayerFile,
    held: HeldBlocks | null,
    from: number,
    to: number,
    found: SearchResult<LayerFile>,
  ): void {
    for (let block = item.first; block < item.end; block++) {
      const chain = this.#chains[block - this.#firstBlock]!;
      if (chain.complete || chain.knownLsn >= to) continue;
      // Also if its index alone says that the layer has nothing of this key.
      chain.layersVisited++;
      if (held !== null) layer.collect(held, chain, Math.max(from, chain.knownLsn + 1), to);
    }
    // Below a complete image a timeline that branches from none has nothing more.
    const isLast = layer.isComplete && this.#ancestor === null;
    if (isLast) this.#endAt(item, layer.desc.lsnStart);
    item.lsnEnd = isLast ? 0 : found.lsnEnd;
    item.imageEnd = isLast ? 0 : found.imageEnd;
  }

  /** What the chains have no value of did not exist at `lsn`: nor counts an older version that is known. */
  #endAt({ first, end }: Item, lsn: number): void {
    for (let block = first; block < end; block++) {
      const chain = this.#chains[block - this.#firstBlock]!;
      if (!chain.complete && chain.knownLsn >= 0 && chain.knownLsn < lsn) chain.knownLsn = -1;
    }
  }

  #countReads(): void {
    const { layersPerRead, deltasPerRead } = this.#counters;
    for (const { layersVisited, kinds } of this.#chains) {
      layersPerRead.observe(layersVisited);
      deltasPerRead.observe(kinds.at(-1) === valueKind.image ? kinds.length - 1 : kinds.length);
    }
  }

  /** Whether nothing below `lsnEnd` is needed. Then a known version, if that is why, becomes the chain's last. */
  #isSettled(block: number, lsnEnd: number): boolean {
    const chain = this.#chains[block - this.#firstBlock]!;
    if (chain.complete) return true;
    if (chain.knownLsn < 0 || chain.knownLsn + 1 < lsnEnd) return false;
    return addKnown(chain);
  }

  /** Nothing is left in this timeline: on to the ancestor. `done` if there is none or nobody needs it. */
  #descend(): Promise<void> | typeof done | undefined {
    const ancestor = this.#ancestor;
    const open = this.#chains.filter((chain) => !chain.complete);
    if (open.length === 0) return done;
    const known = open.filter((chain) => chain.knownLsn >= 0);
    for (const chain of known) addKnown(chain);
    if (ancestor === null || known.length === open.length) return done;
    if (ancestor.kind === 'remote') return this.#readRemote(ancestor.service, ancestor.lsn);
    const begun = ancestor.whenBegun?.(this.#signal);
    // Then again: it is another view.
    if (begun !== undefined) return begun;
    const view = ancestor.open();
    const wait = view.waitLsn(ancestor.lsn, this.#signal);
    if (wait !== undefined) {
      return wait.then(
        () => this.#enter(view, ancestor.lsn + 1),
        // It may begin anew while it is waited for.
        (error) => ancestor.whenBegun?.(this.#signal) ?? Promise.reject(error),
      );
    }
    this.#enter(view, ancestor.lsn + 1);
  }

  async #readRemote(service: PageService, lsn: Lsn): Promise<void> {
    const open = this.#chains.filter((chain) => !chain.complete);
    const images = await service.getImages({ requestLsn: lsn, notModifiedSince: lsn }, open, this.#signal);
    for (const [i, chain] of open.entries()) {
      chain.layersVisited++;
      const image = images[i] ?? nothing;
      chain.add(lsn, valueKind.image, image);
      this.#view.versions.keep(chain.prefix, chain.block, lsn, image);
    }
  }
}

function addKnown(chain: ValueChain): boolean {
  const known = chain.known!;
  return chain.add(chain.knownLsn, valueKind.image, known.bytes, known);
}

const done = Symbol('done');
