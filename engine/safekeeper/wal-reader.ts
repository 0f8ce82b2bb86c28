/**
 * Reads a timeline's WAL and follows it, for the pageserver's WAL receiver and for proposers that bring a safekeeper up to date (W4 to W5
 * of the write path). Pulls: a chunk is read when the consumer asks for it, so a slow reader holds nobody up; woken by the timeline, never
 * by a timer.
 *
 * Invariants
 * - committed WAL only; with a term, also what is not committed yet, as long as that term rules here
 * - every record that is sent has a valid CRC32C: damage on disk or in the object store is `corrupt`, and names file and LSN
 * - WAL that was given up here comes from where it was sent, if it was
 */
import { must } from '../assert.ts';
import { PageliteError } from '../errors.ts';
import { walMessageBytesMax } from '../limits.ts';
import { formatLsn, invalidLsn, type Lsn } from '../model/lsn.ts';
import type { WalChunk } from '../services.ts';
import { RecordScan } from '../wal/record-scan.ts';
import type { SafekeeperTimeline } from './timeline.ts';
import { WalArchive } from './wal-archive.ts';
import type { BackupTarget } from './wal-backup.ts';

/** `openBackup`: where WAL was sent that is not here any more; null: nowhere. */
export async function* readTimelineWal(
  timeline: SafekeeperTimeline,
  startLsn: Lsn,
  signal: AbortSignal,
  openBackup: (() => Promise<BackupTarget>) | null,
  term?: number,
): AsyncGenerator<WalChunk, void, undefined> {
  readableLsn(timeline, term);
  checkStart(timeline, startLsn, openBackup !== null);
  // startLsn is a record boundary: a reader resumes where its last record ended.
  let archive: WalArchive | null = null;
  const scan = new RecordScan(startLsn);
  const reader = { lsn: startLsn };
  const leave = timeline.addReader(reader);
  try {
    while (!signal.aborted) {
      if (timeline.ended) throw timeline.ended;
      const end = readableLsn(timeline, term);
      if (reader.lsn >= end) {
        await timeline.changed(signal);
        continue;
      }
      const at = reader.lsn;
      const lengthMax = Math.min(walMessageBytesMax, end - at);
      let source: string | null = null;
      let bytes: Uint8Array;
      if (at < timeline.startLsn && openBackup === null) throw givenUp(timeline, at, timeline.startLsn);
      if (at < timeline.startLsn && !(await timeline.wal.holdsEndOfRecordAt(at))) {
        archive ??= new WalArchive(await must(openBackup)(), timeline.id, beginOf(timeline));
        ({ key: source, bytes } = await archive.read(at, lengthMax));
      } else {
        const held = await readHeld(timeline, at, lengthMax);
        if (held === null) continue;
        bytes = held;
      }
      if (!scan.feed(bytes)) {
        // Uncommitted WAL may have been cut off while it was read: by a newer term, which is told here.
        readableLsn(timeline, term);
        throw source === null ? damage(timeline, scan, startLsn) : damagedObject(timeline, scan, source);
      }
      const { commitLsn } = timeline;
      yield { startLsn: at, bytes, commitLsn };
      reader.lsn = (at + bytes.length) as Lsn;
    }
  } finally {
    leave();
  }
}

/** Null if it was given up meanwhile. */
async function readHeld(timeline: SafekeeperTimeline, lsn: Lsn, lengthMax: number): Promise<Uint8Array | null> {
  const cached = timeline.wal.readCached(lsn, lengthMax);
  if (cached !== null) return cached;
  const { startLsn } = timeline;
  try {
    return await timeline.wal.readFile(lsn, lengthMax);
  } catch (error) {
    if (lsn >= timeline.startLsn || timeline.startLsn === startLsn) throw error;
    return null;
  }
}

function readableLsn(timeline: SafekeeperTimeline, term: number | undefined): Lsn {
  if (term === undefined) return timeline.commitLsn;
  if (timeline.term !== term) {
    throw new PageliteError('fenced', `term ${timeline.term} rules here, not ${term}`, {
      ...timeline.id,
      term: timeline.term,
    });
  }
  return timeline.flushLsn;
}

/** Past commitLsn is fine: a reader may know of a commit that this safekeeper has yet to hear of. */
function checkStart(timeline: SafekeeperTimeline, startLsn: Lsn, hasBackup: boolean): void {
  const { id, flushLsn } = timeline;
  const held = hasBackup ? beginOf(timeline) : timeline.startLsn;
  if (held === 0)
    throw new PageliteError('notFound', `timeline ${id.tenantId}/${id.timelineId} has no WAL here yet`, { ...id });
  if (startLsn >= held && startLsn <= flushLsn) return;
  throw givenUp(timeline, startLsn, held);
}

function givenUp({ id, flushLsn }: SafekeeperTimeline, lsn: Lsn, held: Lsn): PageliteError {
  const text = `WAL from ${formatLsn(lsn)} asked for, held is ${formatLsn(held)} to ${formatLsn(flushLsn)}`;
  return new PageliteError('invalid', text, { ...id, lsn: formatLsn(lsn) });
}

/** Where the log begins, held here or not; 0 if there is none yet. */
const beginOf = (timeline: SafekeeperTimeline): Lsn => timeline.control.termHistory[0]?.lsn ?? invalidLsn;

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
