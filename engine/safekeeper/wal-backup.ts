/**
 * WAL in the object store (beside W3 of the write path): full segments as soon as they are committed, and the committed beginning of the last one when
 * nothing new comes. Called by safekeeper/upkeep.ts on the one safekeeper that does it for a timeline, and on each that ends; read by
 * safekeeper/archived-log.ts.
 *
 *   wal/<tenant>/<timeline>/<log>/000000010000000000000003                            16 MB
 *   wal/<tenant>/<timeline>/<log>/000000010000000000000004.0000000004123458.partial   up to that LSN, without the zeros behind it
 *
 * `<log>` is `<LSN at which the log begins, 16 hex digits>-<id of the safekeepers' cluster>`: a tenant that is attached elsewhere gets other safekeepers there,
 * whose WAL need not be that of these from some LSN on. Before the log's beginning its first segment holds zeros.
 *
 * Invariants
 * - only committed WAL is sent, after each of its records has been checked
 * - whoever sends a segment sends the same bytes: it does not matter if two do for a while
 * - a partial object goes only when what replaces it is stored
 * - nothing is sent of a tenant that was deleted, by whomever: safekeepers of an owner of before are not told, and look for the note of it (tenant-claims.ts)
 * Source: Neon's safekeeper/src/wal_backup.rs and wal_backup_partial.rs.
 */
import { must } from '../assert.ts';
import { backupLagBytesMax, partialBackupPauseMaxMs, partialBackupPauseMs, walSegmentSize } from '../limits.ts';
import type { NodeId, TenantId, TenantTimelineId } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ObjectStore } from '../services.ts';
import { isTenantDeleted } from '../timeline/tenant-claims.ts';
import { RecordScan } from '../wal/record-scan.ts';
import { parseSegmentFileName, segmentFileName, segmentStart } from '../wal/wal-page.ts';
import type { SafekeeperTimeline } from './timeline.ts';

/** All logs of a tenant in the object store. */
export const walTenantFolder = (tenant: TenantId): string => `wal/${tenant}/`;

/** Those of a timeline. */
export const walBackupFolder = ({ tenantId, timelineId }: TenantTimelineId): string =>
  `${walTenantFolder(tenantId)}${timelineId}/`;

/** One of them. */
export const walLogFolder = (id: TenantTimelineId, startLsn: Lsn, cluster: string): string =>
  `${walBackupFolder(id)}${startLsn.toString(16).padStart(16, '0')}-${cluster}/`;

/** Of a folder's name: the log that is in it; null if it is none. */
export function parseLogFolder(name: string): { readonly startLsn: Lsn; readonly cluster: string } | null {
  const match = /^([0-9a-f]{16})-([0-9a-f]{16})$/.exec(name);
  return match === null ? null : { startLsn: Number.parseInt(match[1]!, 16) as Lsn, cluster: match[2]! };
}

/** Where a safekeeper sends WAL. */
export interface BackupTarget {
  readonly store: ObjectStore;
  /** 16 hex digits, the same for all safekeepers that have a log in common. */
  readonly cluster: string;
}

/** Opens it when it is first needed, and again after a failure. */
export type OpenBackup = () => Promise<BackupTarget>;

export interface BackupObject {
  readonly key: string;
  readonly startLsn: Lsn;
  /** The end of the committed WAL in it. */
  readonly endLsn: Lsn;
  readonly isPartial: boolean;
}

const partialPattern = /^([0-9A-F]{24})\.([0-9a-f]{16})\.partial$/;

/** What a key of the folder stands for; null if it is something else. */
export function parseBackupKey(key: string): BackupObject | null {
  const name = key.slice(key.lastIndexOf('/') + 1);
  const partial = partialPattern.exec(name);
  const startLsn = parseSegmentFileName(partial?.[1] ?? name);
  if (startLsn === null) return null;
  const full = (startLsn + walSegmentSize) as Lsn;
  if (partial === null) return { key, startLsn, endLsn: full, isPartial: false };
  const endLsn = Number.parseInt(partial[2]!, 16) as Lsn;
  return endLsn > startLsn && endLsn < full ? { key, startLsn, endLsn, isPartial: true } : null;
}

/** The one safekeeper that sends a timeline's WAL: of those that have about all that is committed, by chance, but the same for everybody who knows the same. */
export function chooseSender(
  id: TenantTimelineId,
  nodes: readonly { readonly nodeId: NodeId; readonly commitLsn: Lsn }[],
): NodeId {
  const newest = Math.max(...nodes.map(({ commitLsn }) => commitLsn));
  const able = nodes
    .filter(({ commitLsn }) => commitLsn + backupLagBytesMax >= newest)
    .map(({ nodeId }) => nodeId)
    .sort((a, b) => a - b);
  return must(able[Number.parseInt(id.timelineId.slice(-6), 16) % able.length]);
}

/** Removes what safekeepers of this cluster have sent of a timeline that is deleted. */
export async function deleteBackup({ store, cluster }: BackupTarget, id: TenantTimelineId): Promise<void> {
  const folder = walBackupFolder(id);
  for (const name of await store.listFolders(folder)) {
    if (parseLogFolder(name)?.cluster !== cluster) continue;
    for (const { key } of await store.list(`${folder}${name}/`)) await store.delete(key);
  }
}

/** Sends one timeline's WAL. Kept while this safekeeper is the sender: it remembers what is there. */
export class WalBackup {
  readonly #store: ObjectStore;
  readonly #timeline: SafekeeperTimeline;
  readonly #folder: string;
  #doneLsn: Lsn | null = null;
  /** Where the longest partial object ends that is known to be there. */
  #partialEndLsn = 0;
  #seenCommitLsn = 0;
  /** Since when what is committed has been as it is. */
  #quietSinceMs = 0;
  #partialSinceMs: number | null = null;
  #isDeleted = false;

  /** The timeline has WAL. */
  constructor({ store, cluster }: BackupTarget, timeline: SafekeeperTimeline) {
    this.#store = store;
    this.#timeline = timeline;
    this.#folder = walLogFolder(timeline.id, timeline.beginLsn, cluster);
  }

  /** Sends what there is to send now. `isLast`: also what would otherwise wait for a while. Returns how many objects were sent. */
  async send(nowMs: number, isLast = false): Promise<number> {
    const timeline = this.#timeline;
    this.#doneLsn ??= await this.#findDone();
    if (this.#doneLsn === null || this.#isDeleted) return 0;
    let sentCount = 0;
    for (;;) {
      const start = segmentStart(this.#doneLsn);
      const end = (start + walSegmentSize) as Lsn;
      if (end > timeline.commitLsn) break;
      const bytes = await readChecked(timeline, start, end);
      if (!(await this.#put(this.#folder + segmentFileName(start), bytes))) return sentCount;
      sentCount++;
      this.#doneLsn = end;
      timeline.learnBackup(end);
      await this.#dropReplaced(await listBackup(this.#store, this.#folder + segmentFileName(start)));
      this.#partialSinceMs = null;
    }
    if (this.#isPartialDue(nowMs) || isLast) sentCount += await this.#sendPartial();
    return sentCount;
  }

  #isPartialDue(nowMs: number): boolean {
    const { commitLsn } = this.#timeline;
    if (commitLsn !== this.#seenCommitLsn) {
      this.#seenCommitLsn = commitLsn;
      this.#quietSinceMs = nowMs;
      this.#partialSinceMs ??= nowMs;
    }
    if (this.#partialSinceMs === null) return false;
    return (
      nowMs - this.#quietSinceMs >= partialBackupPauseMs || nowMs - this.#partialSinceMs >= partialBackupPauseMaxMs
    );
  }

  async #sendPartial(): Promise<number> {
    const timeline = this.#timeline;
    const { commitLsn } = timeline;
    const start = segmentStart(commitLsn);
    this.#partialSinceMs = null;
    const isThere = this.#partialEndLsn >= commitLsn;
    if (commitLsn === start || isThere || start < must(this.#doneLsn) - walSegmentSize) return 0;
    const name = segmentFileName(start);
    const key = `${this.#folder}${name}.${commitLsn.toString(16).padStart(16, '0')}.partial`;
    if (!(await this.#put(key, await readChecked(timeline, start, commitLsn)))) return 0;
    this.#partialEndLsn = commitLsn;
    await this.#dropReplaced(await listBackup(this.#store, this.#folder + name));
    return 1;
  }

  /** False, and nothing is stored, if the tenant was deleted. Looked for afterwards: whoever deletes it notes that first, and then removes its WAL. */
  async #put(key: string, bytes: Uint8Array): Promise<boolean> {
    await this.#store.put(key, bytes);
    this.#isDeleted = await isTenantDeleted(this.#store, this.#timeline.id.tenantId);
    if (this.#isDeleted) await this.#store.delete(key);
    return !this.#isDeleted;
  }

  /** Partial objects of which there is a longer one of the same segment, or all of it. Others may have sent them meanwhile. */
  async #dropReplaced(objects: readonly BackupObject[]): Promise<void> {
    const ends = new Map<Lsn, Lsn>();
    for (const { startLsn, endLsn } of objects) {
      ends.set(startLsn, Math.max(endLsn, ends.get(startLsn) ?? 0) as Lsn);
    }
    for (const { key, startLsn, endLsn } of objects) {
      if (endLsn < must(ends.get(startLsn))) await this.#store.delete(key);
    }
  }

  /** Where the full segments end that are in the store, or where the log begins. Null if what is to follow there is not all here: others have to send it. */
  async #findDone(): Promise<Lsn | null> {
    const timeline = this.#timeline;
    const objects = await listBackup(this.#store, this.#folder);
    await this.#dropReplaced(objects);
    this.#partialEndLsn = Math.max(0, ...objects.filter(({ isPartial }) => isPartial).map(({ endLsn }) => endLsn));
    const full = objects.filter(({ isPartial }) => !isPartial);
    const begins = timeline.beginLsn;
    const done = Math.max(segmentStart(begins), ...full.map(({ endLsn }) => endLsn)) as Lsn;
    if (full.length > 0) timeline.learnBackup(done);
    const held = segmentStart(timeline.startLsn);
    const isHeadHere = timeline.startLsn === begins || (await timeline.wal.holdsHead(held));
    return done > held || (done === held && isHeadHere) ? done : null;
  }
}

/** What is in a log's folder, in the order of the WAL. */
export async function listBackup(store: ObjectStore, folder: string): Promise<readonly BackupObject[]> {
  const objects = await store.list(folder);
  return objects
    .map(({ key }) => parseBackupKey(key))
    .filter((object) => object !== null)
    .sort((a, b) => a.startLsn - b.startLsn || a.endLsn - b.endLsn);
}

/** The segment's WAL up to `end`, after its records have been checked. Before the timeline's beginning there are zeros. */
async function readChecked(timeline: SafekeeperTimeline, start: Lsn, end: Lsn): Promise<Uint8Array> {
  const from = Math.max(start, timeline.startLsn) as Lsn;
  const bytes = new Uint8Array(end - start);
  for (let at = from as number; at < end; ) {
    const part = await timeline.wal.readFile(at as Lsn, end - at);
    bytes.set(part, at - start);
    at += part.length;
  }
  const boundary = from === start ? must(await timeline.wal.firstBoundary(start)) : from;
  if (boundary >= end) return bytes;
  const scan = new RecordScan(boundary);
  if (!scan.feed(bytes.subarray(boundary - start))) {
    throw timeline.wal.corrupt(scan.problemLsn, scan.problem ?? 'the WAL ends');
  }
  return bytes;
}
