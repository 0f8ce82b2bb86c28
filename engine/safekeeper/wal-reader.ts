/**
 * Reads a timeline's WAL and follows it, for the pageserver's WAL receiver and for proposers that bring a safekeeper up to date (W4 to W5
 * of the write path). Pulls: a chunk is read when the consumer asks for it, so a slow reader holds nobody up; woken by the timeline, never
 * by a timer.
 *
 * Invariants
 * - committed WAL only; with a term, also what is not committed yet, as long as the last record is of that term: then it is what every such log has
 * - every record that is sent has a valid CRC32C: damage on disk or in the object store is `corrupt`, and names file and LSN
 * - WAL that was given up here comes from where it was sent, if it was
 */
import { PageliteError } from '../errors.ts';
import { walMessageBytesMax } from '../limits.ts';
import { formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import type { WalChunk } from '../services.ts';
import { RecordScan } from '../wal/record-scan.ts';
import type { SafekeeperTimeline } from './timeline.ts';
import { WalArchive } from './wal-archive.ts';
import type { OpenBackup } from './wal-backup.ts';

/** `openBackup`: where WAL was sent that is not here any more; null: nowhere. */
export async function* readTimelineWal(
  timeline: SafekeeperTimeline,
  startLsn: Lsn,
  signal: AbortSignal,
  openBackup: OpenBackup | null,
  lastTerm?: number,
): AsyncGenerator<WalChunk, void, undefined> {
  readableLsn(timeline, lastTerm);
  checkStart(timeline, startLsn, openBackup !== null);
  let archive: WalArchive | null = null;
  // startLsn is a record boundary: a reader resumes where its last record ended.
  const scan = new RecordScan(startLsn);
  const reader = { lsn: startLsn };
  const leave = timeline.addReader(reader);
  try {
    while (!signal.aborted) {
      if (timeline.ended) throw timeline.ended;
      const end = readableLsn(timeline, lastTerm);
      if (reader.lsn >= end) {
        await timeline.changed(signal);
        continue;
      }
      const at = reader.lsn;
      const lengthMax = Math.min(walMessageBytesMax, end - at);
      let object: string | null = null;
      let bytes = timeline.wal.readCached(at, lengthMax);
      if (bytes === null && at < timeline.startLsn) {
        if (openBackup === null) throw givenUp(timeline, at, timeline.startLsn);
        if (!(await timeline.wal.holdsEndOfRecordAt(at))) {
          archive ??= new WalArchive(await openBackup(), timeline.id, timeline.beginLsn);
          ({ key: object, bytes } = await archive.read(at, lengthMax));
        }
      }
      bytes ??= await readHeld(timeline, at, lengthMax);
      if (bytes === null) continue;
      // Uncommitted WAL may have been cut off while it was read: by a newer term, which is told here.
      readableLsn(timeline, lastTerm);
      if (!scan.feed(bytes)) {
        throw object === null ? damage(timeline, scan, startLsn) : damagedObject(timeline, scan, object);
      }
      const { commitLsn } = timeline;
      yield { startLsn: at, bytes, commitLsn };
      reader.lsn = (at + bytes.length) as Lsn;
    }
  } finally {
    leave();
  }
}

/** From the file; null if it was given up meanwhile. */
async function readHeld(timeline: SafekeeperTimeline, lsn: Lsn, lengthMax: number): Promise<Uint8Array | null> {
  const { startLsn } = timeline;
  try {
    return await timeline.wal.readFile(lsn, lengthMax);
  } catch (error) {
    if (lsn >= timeline.startLsn || timeline.startLsn === startLsn) throw error;
    return null;
  }
}

function readableLsn(timeline: SafekeeperTimeline, lastTerm: number | undefined): Lsn {
  if (lastTerm === undefined) return timeline.commitLsn;
  const { decidedLastTerm } = timeline;
  if (decidedLastTerm !== lastTerm) {
    throw new PageliteError('fenced', `the last record here is of term ${decidedLastTerm}, not ${lastTerm}`, {
      ...timeline.id,
      term: decidedLastTerm,
    });
  }
  return timeline.flushLsn;
}

/** Past commitLsn is fine: a reader may know of a commit that this safekeeper has yet to hear of. */
function checkStart(timeline: SafekeeperTimeline, startLsn: Lsn, hasBackup: boolean): void {
  const { id, flushLsn } = timeline;
  const held = hasBackup ? timeline.beginLsn : timeline.startLsn;
  if (held === 0 || flushLsn === invalidLsn)
    throw new PageliteError('notFound', `timeline ${id.tenantId}/${id.timelineId} has no WAL here yet`, { ...id });
  if (startLsn >= held && startLsn <= flushLsn) return;
  throw givenUp(timeline, startLsn, held);
}

function givenUp({ id, flushLsn }: SafekeeperTimeline, lsn: Lsn, held: Lsn): PageliteError {
  const text = `WAL from ${formatLsn(lsn)} asked for, held is ${formatLsn(held)} to ${formatLsn(flushLsn)}`;
  return new PageliteError('invalid', text, { ...id, lsn: formatLsn(lsn) });
}

function damagedObject(timeline: SafekeeperTimeline, scan: RecordScan, key: string): PageliteError {
  const lsn = formatLsn(scan.problemLsn);
  return new PageliteError('corrupt', `object ${key} is damaged at ${lsn}: ${scan.problem}`, {
    ...timeline.id,
    file: key,
    lsn,
  });
}

/** A first record that is none may as well be a start in the middle of one. */
function damage(timeline: SafekeeperTimeline, scan: RecordScan, startLsn: Lsn): PageliteError {
  const problem = scan.problem ?? '';
  if (scan.boundaryLsn !== startLsn || startLsn === timeline.startLsn)
    return timeline.wal.corrupt(scan.problemLsn, problem);
  return timeline.wal.corrupt(scan.problemLsn, `${problem} (or ${formatLsn(startLsn)} is not where a record ends)`);
}
