/**
 * Sends a timeline's layers to another pageserver, where they become a timeline of their own, or more of one that was sent before.
 *
 * Layers are sent as they are, but for the ids in their headers. Nothing is kept of an attempt that was cut off except at the receiver
 * (timeline-imports.ts): the next one hears what is missing there.
 */
import { must } from '../assert.ts';
import { crc32c } from '../crc32c.ts';
import { isPageliteError, PageliteError } from '../errors.ts';
import { headerBytes, writeIds } from '../layers/layer-format.ts';
import { parseLayerName } from '../layers/layer-name.ts';
import { importPartBytesMax } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import type { Clock } from '../services.ts';
import type { IndexPart } from '../timeline/index-part.ts';
import { type ImportManifest, type ManifestLayer, originOf } from './import-manifest.ts';
import type { ImportState } from './timeline-imports.ts';

/** Who takes an import: a TimelineImports, or one behind HTTP. */
export interface ImportPeer {
  begin(id: TenantTimelineId, manifest: ImportManifest, signal?: AbortSignal): Promise<ImportState>;
  put(
    id: TenantTimelineId,
    importId: string,
    name: string,
    offset: number,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<number>;
  commit(id: TenantTimelineId, importId: string, signal?: AbortSignal): Promise<void>;
}

/** Where layers are read: a Pageserver. */
export interface LayerSource {
  readLayer(id: TenantTimelineId, name: string, range: { start: number; end: number }): Promise<Uint8Array | null>;
}

export interface TransferProgress {
  readonly text: string;
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes';
}

export interface PushTimelineOptions {
  readonly source: LayerSource;
  readonly id: TenantTimelineId;
  /** What is sent of it; `ancestor` as the receiver knows it. */
  readonly part: IndexPart;
  readonly peer: ImportPeer;
  readonly target: TenantTimelineId;
  /** Up to where the receiver has it, as far as is known. */
  readonly base: Lsn | null;
  readonly clock: Clock;
  readonly progress?: (progress: TransferProgress) => void;
  readonly signal?: AbortSignal;
}

const partBytes = importPartBytesMax / 2;
const attemptsMax = 4;
const retryPauseMs = 500;
/** How often a receiver may say that it is elsewhere than it said before. */
const beginsMax = 3;

/** Resolves when the target has everything of `part`. Rejects as `TimelineImports` does, and `cancelled`. */
export async function pushTimeline(options: PushTimelineOptions): Promise<void> {
  const { part, peer, target, signal } = options;
  let { base } = options;
  for (let begins = 0; begins < beginsMax; begins++) {
    const manifest = await manifestOf(options, base);
    const state = await retried(options, () => peer.begin(target, manifest, signal));
    if (state.kind === 'open') {
      await sendLayers(options, manifest, state);
      await retried(options, () => peer.commit(target, state.importId, signal));
      return;
    }
    if (state.lsn === part.diskConsistentLsn) return;
    if (state.lsn !== null && state.lsn > part.diskConsistentLsn) throw isAhead(target, state.lsn, part);
    base = state.lsn;
  }
  throw new PageliteError('unavailable', `timeline ${target.timelineId} is being pushed by somebody else`, {
    ...target,
  });
}

function isAhead(target: TenantTimelineId, lsn: Lsn, { diskConsistentLsn }: IndexPart): PageliteError {
  const [there, here] = [formatLsn(lsn), formatLsn(diskConsistentLsn)];
  const message = `timeline ${target.timelineId} was pushed up to ${there}, and here it ends at ${here}: push it under another name`;
  return new PageliteError('fenced', message, { ...target, lsn: there });
}

// The list

/** The layers above `base`. */
async function manifestOf(options: PushTimelineOptions, base: Lsn | null): Promise<ImportManifest> {
  const { id, part, signal, progress } = options;
  const wanted = part.layers.filter(({ name }) => base === null || must(parseLayerName(name)).lsnEnd > base + 1);
  const total = wanted.reduce((sum, { size }) => sum + size, 0);
  const layers: ManifestLayer[] = [];
  let done = 0;
  for (const { name, size, isComplete } of wanted) {
    let checksum = 0;
    for (let at = 0; at < size; at += partBytes) {
      signal?.throwIfAborted();
      progress?.({ text: 'Looking through the changes', done, total, unit: 'bytes' });
      const bytes = await readPart(options, name, size, at);
      checksum = crc32c(bytes, 0, bytes.length, checksum);
      done += bytes.length;
    }
    layers.push({ name, size, crc32c: checksum, isComplete });
  }
  return { ...part, origin: originOf(id), base, layers };
}

/** Bytes of a layer from `offset` on, as they are for the target. */
async function readPart(
  { source, id, target }: PushTimelineOptions,
  name: string,
  size: number,
  offset: number,
): Promise<Uint8Array> {
  const end = Math.min(size, offset + partBytes);
  const bytes = await source.readLayer(id, name, { start: offset, end });
  if (bytes === null || bytes.length !== end - offset) {
    throw new PageliteError('corrupt', `layer file ${name} is missing or cut short`, { ...id, file: name });
  }
  if (offset > 0) return bytes;
  const first = bytes.slice();
  writeIds(first, 16, target);
  new DataView(first.buffer).setUint32(headerBytes - 4, crc32c(first, 0, headerBytes - 4), true);
  return first;
}

// The layers

async function sendLayers(
  options: PushTimelineOptions,
  { layers }: ImportManifest,
  { importId, missing }: Extract<ImportState, { kind: 'open' }>,
): Promise<void> {
  const { peer, target, progress, signal } = options;
  const sizes = new Map(layers.map(({ name, size }) => [name, size]));
  const total = layers.reduce((sum, { size }) => sum + size, 0);
  let done = total - missing.reduce((sum, { name, received }) => sum + must(sizes.get(name)) - received, 0);
  for (const { name, received } of missing) {
    const size = must(sizes.get(name));
    for (let at = received; at < size; ) {
      signal?.throwIfAborted();
      progress?.({ text: 'Sending changes', done, total, unit: 'bytes' });
      const bytes = await readPart(options, name, size, at);
      const next = await retried(options, () => peer.put(target, importId, name, at, bytes, signal));
      if (next <= at)
        throw new PageliteError('unavailable', `the receiver of layer ${name} is at ${next}, not at ${at}`);
      done += next - at;
      at = next;
    }
  }
  progress?.({ text: 'Sending changes', done: total, total, unit: 'bytes' });
}

/** Requests can be made again: what was done already is not done twice. */
async function retried<T>({ clock, signal }: PushTimelineOptions, work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === attemptsMax || !isPageliteError(error, 'unavailable')) throw error;
      await clock.sleep(retryPauseMs * attempt, signal);
    }
  }
}
