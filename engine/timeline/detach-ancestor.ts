/**
 * Makes a branch independent of its ancestor: everything that it reads there is written as complete image layers as of the branch point, into its own folder.
 *
 * Neon copies the ancestor's layers with their history (timeline/detach_ancestor.rs); here a branch has no history before its branch point, so its pages at
 * that point are all that is missing. Read through the branch itself, in the order of keys, a bounded number at a time.
 *
 * Invariant: layers are put before the index says that there is no ancestor; cut off, they are leftovers.
 */
import { keyLimit, leastKey } from '../compaction/columns.ts';
import { LayerWriter, type WrittenLayer } from '../layers/layer-writer.ts';
import { keysPerRequestMax, pageSize, pagesPerRequestMax } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { type Key, relPrefix } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import { valueKind } from '../model/value.ts';
import type { PageService } from '../services.ts';
import { timelineContents } from '../transfer/timeline-contents.ts';

export interface InheritedPagesOptions {
  readonly id: TenantTimelineId;
  readonly pages: PageService;
  /** The branch point. */
  readonly lsn: Lsn;
  /** Bytes of a layer. */
  readonly targetBytes: number;
  readonly signal: AbortSignal;
  put(layer: WrittenLayer): Promise<void>;
}

/** Resolves when all layers are put. They tile the key space. */
export async function writeInheritedPages(options: InheritedPagesOptions): Promise<void> {
  const { id, pages, lsn, targetBytes, signal } = options;
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  const newWriter = () => new LayerWriter('image', id, targetBytes + pagesPerRequestMax * pageSize);
  let writer = newWriter();
  let start = leastKey;
  const finish = async (end: Key) => {
    const written = writer.finish(lsn, (lsn + 1) as Lsn, { start, end });
    if (written !== null) await options.put(written);
    writer = newWriter();
    start = end;
  };
  const add = async ({ prefix, block }: Key, value: Uint8Array) => {
    if (writer.length >= targetBytes) await finish({ prefix, block });
    writer.add(prefix, block, lsn, valueKind.image, value, 0, value.length);
  };
  for (const step of await timelineContents(pages, lsn, signal)) {
    const count = step.kind === 'pages' ? step.size : step.keys.length;
    const most = step.kind === 'pages' ? pagesPerRequestMax : keysPerRequestMax;
    for (let first = 0; first < count; first += most) {
      const length = Math.min(most, count - first);
      if (step.kind === 'values') {
        const keys = step.keys.slice(first, first + length);
        const values = await pages.getImages(at, keys, signal);
        for (const [i, value] of values.entries()) if (value !== null) await add(keys[i]!, value);
        continue;
      }
      const prefix = relPrefix(step.rel);
      const bytes = await pages.getPages(at, step.rel, first, length, signal);
      for (let i = 0; i < length; i++) {
        const page = bytes.subarray(i * pageSize, (i + 1) * pageSize);
        // A block that a relation has and no layer is one of zeros.
        if (page.some((byte) => byte !== 0)) await add({ prefix, block: first + i }, page);
      }
    }
  }
  await finish(keyLimit);
}
