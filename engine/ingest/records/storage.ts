/**
 * Resource manager Storage: files made and cut. Formats: src/include/catalog/storage_xlog.h.
 *
 * create   RelFileLocator (12), i32 fork
 * truncate u32 blocks, RelFileLocator (12), i32 flags (1 heap, 2 visibility map, 4 free space map)
 */
import type { KeyPrefix } from '../../model/key.ts';
import { fsmFork, mainFork, vmFork } from '../../model/rel.ts';
import { corruptRecord } from '../../wal/parse-record.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import type { IngestContext } from '../ingest-context.ts';
import { heapBlocksPerVmPage, vmTruncatePatch } from '../patch.ts';
import { recordRel } from '../record-rel.ts';
import { unknownRecord } from '../unknown-record.ts';

const create = 0x10;
const truncate = 0x20;
const truncateHeap = 1;
const truncateVm = 2;
const truncateFsm = 4;

export function ingestStorage(context: IngestContext, record: WalRecord): Promise<void> {
  const { view } = record;
  const from = record.start + record.mainOffset;
  switch (record.info & 0xf0) {
    case create: {
      if (record.mainLength < 16) throw corruptRecord(record, 'file creation is cut short');
      const fork = view.getInt32(from + 12, true);
      const locator = readLocator(view, from);
      return createFork(context, record, recordRel(record, locator.spc, locator.db, locator.rel, fork));
    }
    case truncate: {
      if (record.mainLength < 20) throw corruptRecord(record, 'truncation is cut short');
      return truncateRel(
        context,
        record,
        view.getUint32(from, true),
        readLocator(view, from + 4),
        view.getInt32(from + 16, true),
      );
    }
    default:
      throw unknownRecord(record);
  }
}

interface Locator {
  readonly spc: number;
  readonly db: number;
  readonly rel: number;
}

function readLocator(view: DataView, at: number): Locator {
  return { spc: view.getUint32(at, true), db: view.getUint32(at + 4, true), rel: view.getUint32(at + 8, true) };
}

async function createFork(context: IngestContext, record: WalRecord, prefix: KeyPrefix): Promise<void> {
  const lsn = record.endLsn;
  await context.sizes.load(prefix);
  await context.createRel(prefix, lsn);
}

async function truncateRel(
  context: IngestContext,
  record: WalRecord,
  blocks: number,
  { spc, db, rel }: Locator,
  flags: number,
): Promise<void> {
  const lsn = record.endLsn;
  const { sizes, sink } = context;
  if (flags & truncateHeap) {
    const main = recordRel(record, spc, db, rel, mainFork);
    if ((await sizes.load(main)) > blocks) sizes.set(main, lsn, blocks);
  }
  if (flags & truncateVm) {
    const vm = recordRel(record, spc, db, rel, vmFork);
    const size = await sizes.load(vm);
    const lastPage = Math.floor(blocks / heapBlocksPerVmPage);
    const partial = blocks % heapBlocksPerVmPage !== 0;
    if (partial && lastPage < size) sink.putPatch(vm, lastPage, lsn, vmTruncatePatch(blocks));
    const keep = partial ? lastPage + 1 : lastPage;
    if (size > keep) sizes.set(vm, lsn, keep);
  }
  if (flags & truncateFsm) {
    // The free space map is advice: an empty one is right, and Postgres fills it again.
    const fsm = recordRel(record, spc, db, rel, fsmFork);
    if ((await sizes.load(fsm)) > 0) sizes.set(fsm, lsn, 0);
  }
}
