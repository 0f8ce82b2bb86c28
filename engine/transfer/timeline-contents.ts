/**
 * Everything that a timeline holds at an LSN, as steps in the order of its keys: what has to be read to have the timeline whole somewhere else.
 *
 * Asks the PageService for the directories and sizes only; the values themselves are the caller's to read.
 */
import { decodeSize } from '../ingest/rel-sizes.ts';
import { allSlrus } from '../ingest/slru.ts';
import { decodeDatabases, decodePrepared, decodeSegments } from '../ingest/small-directories.ts';
import { keysPerRequestMax } from '../limits.ts';
import {
  checkpointKey,
  controlFileKey,
  dbDirectoryKey,
  type Key,
  relDirectoryKey,
  relMapKey,
  relPrefix,
  replicationOriginsKey,
  type SlruKind,
  sizeBlock,
  slruDirectoryKey,
  slruPrefix,
  staticFilesKey,
  twoPhaseDirectoryKey,
  twoPhaseKey,
} from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { RelTag } from '../model/rel.ts';
import type { PageService } from '../services.ts';

/** `values`: whole values. `pages`: blocks [0, size) of a relation; one that is all zeros need not be kept. */
export type ContentStep =
  | { readonly kind: 'values'; readonly keys: readonly Key[] }
  | { readonly kind: 'pages'; readonly rel: RelTag; readonly size: number };

export async function timelineContents(pages: PageService, lsn: Lsn, signal?: AbortSignal): Promise<ContentStep[]> {
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  const images = async (keys: readonly Key[]): Promise<(Uint8Array | null)[]> => {
    const found: (Uint8Array | null)[] = [];
    for (let i = 0; i < keys.length; i += keysPerRequestMax) {
      found.push(...(await pages.getImages(at, keys.slice(i, i + keysPerRequestMax), signal)));
    }
    return found;
  };
  const steps: ContentStep[] = [{ kind: 'values', keys: [dbDirectoryKey] }];
  const [databases, prepared] = await images([dbDirectoryKey, twoPhaseDirectoryKey]);
  for (const { spc, db } of decodeDatabases(databases!).sort((a, b) => a.spc - b.spc || a.db - b.db)) {
    steps.push({ kind: 'values', keys: [relMapKey(spc, db), relDirectoryKey(spc, db)] });
    for (const { rel, size } of await pages.listRels(at, spc, db, signal)) {
      if (size > 0) steps.push({ kind: 'pages', rel, size });
      steps.push({ kind: 'values', keys: [{ prefix: relPrefix(rel), block: sizeBlock }] });
    }
  }
  for (const slru of allSlrus.toSorted((a, b) => a - b)) steps.push(...(await slruSteps(slru, images)));
  const xids = decodePrepared(prepared!).toSorted((a, b) => a - b);
  steps.push({ kind: 'values', keys: [twoPhaseDirectoryKey, ...xids.map(twoPhaseKey)] });
  steps.push({ kind: 'values', keys: [controlFileKey, checkpointKey, staticFilesKey, replicationOriginsKey] });
  return steps;
}

async function slruSteps(
  kind: SlruKind,
  images: (keys: readonly Key[]) => Promise<(Uint8Array | null)[]>,
): Promise<ContentStep[]> {
  const [directory] = await images([slruDirectoryKey(kind)]);
  const segments = decodeSegments(directory!).toSorted((a, b) => a - b);
  const sizes = await images(segments.map((segment) => ({ prefix: slruPrefix(kind, segment), block: sizeBlock })));
  const steps: ContentStep[] = [{ kind: 'values', keys: [slruDirectoryKey(kind)] }];
  for (const [i, segment] of segments.entries()) {
    const prefix = slruPrefix(kind, segment);
    const blocks = Math.max(0, decodeSize(sizes[i]!, prefix));
    const keys = Array.from({ length: blocks }, (_, block): Key => ({ prefix, block }));
    steps.push({ kind: 'values', keys: [...keys, { prefix, block: sizeBlock }] });
  }
  return steps;
}
