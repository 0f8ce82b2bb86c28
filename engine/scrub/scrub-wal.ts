/**
 * Looks through the WAL that safekeepers have in the object store (safekeeper/wal-backup.ts): of each log of a timeline whole segments that follow one another,
 * and the beginning of the next one. Called by scrub.ts; reads nothing but names and sizes.
 *
 * Garbage is what a larger object has replaced, what has not the name of a segment, and all of a timeline that is not there any more.
 */
import { walSegmentSize } from '../limits.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../model/ids.ts';
import { formatLsn } from '../model/lsn.ts';
import { type BackupObject, parseBackupKey, parseLogFolder } from '../safekeeper/wal-backup.ts';

interface StoredObject {
  readonly key: string;
  readonly size: number;
}

export interface WalReport {
  readonly problems: readonly { readonly key: string; readonly problem: string }[];
  readonly garbage: readonly (StoredObject & { readonly tenant: string })[];
  /** In no log's folder. */
  readonly foreign: readonly StoredObject[];
}

const keyPattern = /^wal\/([0-9a-f]{32})\/([0-9a-f]{32})\/([^/]+)\/[^/]+$/;

/** `objects`: all under `wal/`, or some tenants' of it. */
export function scrubWal(objects: readonly StoredObject[], isThere: (id: TenantTimelineId) => boolean): WalReport {
  const foreign: StoredObject[] = [];
  const logs = new Map<string, { readonly id: TenantTimelineId; readonly objects: StoredObject[] }>();
  for (const object of objects) {
    const match = keyPattern.exec(object.key);
    if (match === null || parseLogFolder(match[3]!) === null) {
      foreign.push(object);
      continue;
    }
    const id = { tenantId: tenantId(match[1]!), timelineId: timelineId(match[2]!) };
    const name = object.key.slice(0, object.key.lastIndexOf('/'));
    const log = logs.get(name) ?? { id, objects: [] };
    log.objects.push(object);
    logs.set(name, log);
  }
  const reports = [...logs.values()].map(({ id, objects: found }) => {
    const { problems, garbage } = isThere(id) ? scrubLog(found) : { problems: [], garbage: found };
    return { problems, garbage: garbage.map((object) => ({ ...object, tenant: id.tenantId })) };
  });
  return {
    problems: reports.flatMap(({ problems }) => problems),
    garbage: reports.flatMap(({ garbage }) => garbage),
    foreign,
  };
}

type Segment = StoredObject & BackupObject;

function scrubLog(objects: readonly StoredObject[]) {
  const problems: { key: string; problem: string }[] = [];
  const garbage: StoredObject[] = [];
  /** By where they begin: the one that has most. */
  const best = new Map<number, Segment>();
  for (const object of objects) {
    const backup = parseBackupKey(object.key);
    if (backup === null) {
      garbage.push(object);
      continue;
    }
    const segment = { ...object, ...backup };
    const other = best.get(segment.startLsn);
    const [more, less] = other === undefined || segment.endLsn > other.endLsn ? [segment, other] : [other, segment];
    best.set(segment.startLsn, more);
    // What is not whole replaces nothing.
    if (less !== undefined && isWhole(more)) garbage.push({ key: less.key, size: less.size });
  }
  const inOrder = [...best.values()].sort((a, b) => a.startLsn - b.startLsn);
  for (const [i, segment] of inOrder.entries()) {
    const { key, size, startLsn, endLsn } = segment;
    if (!isWhole(segment)) problems.push({ key, problem: `has ${size} bytes, and should have ${endLsn - startLsn}` });
    const next = inOrder[i + 1];
    if (next === undefined || next.startLsn === endLsn) continue;
    const missing = `WAL from ${formatLsn(endLsn)} to ${formatLsn(next.startLsn)} is missing behind it`;
    problems.push({ key, problem: missing });
  }
  return { problems, garbage };
}

const isWhole = ({ size, startLsn, endLsn, isPartial }: Segment): boolean =>
  size === (isPartial ? endLsn - startLsn : walSegmentSize);
