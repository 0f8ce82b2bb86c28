/**
 * Resource manager Database: CREATE DATABASE by file copy or by WAL, DROP DATABASE. Formats: src/include/commands/dbcommands_xlog.h.
 *
 * file copy   u32 db, spc, source db, source spc: the copy's pages are in no other record
 * by WAL      u32 db, spc: relations follow as ordinary records
 * drop        u32 db, i32 count, u32 spc each
 */
import { type KeyPrefix, keyKind, keyPrefix, relDirectoryKey, relMapKey } from '../../model/key.ts';
import type { Lsn } from '../../model/lsn.ts';
import { corruptRecord } from '../../wal/parse-record.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import type { IngestContext } from '../ingest-context.ts';
import { checkTablespace } from '../record-rel.ts';
import { RelDirectory } from '../rel-directory.ts';
import { unknownRecord } from '../unknown-record.ts';

const createFileCopy = 0x00;
const createWalLog = 0x10;
const drop = 0x20;

export function ingestDatabase(context: IngestContext, record: WalRecord): void | Promise<void> {
  const { view } = record;
  const from = record.start + record.mainOffset;
  const u32 = (index: number) => {
    if (index * 4 + 4 > record.mainLength) throw corruptRecord(record, 'database record is cut short');
    return view.getUint32(from + index * 4, true);
  };
  switch (record.info & 0xf0) {
    case createFileCopy:
      checkTablespace(record, u32(1));
      checkTablespace(record, u32(3));
      return copyDatabase(context, { db: u32(0), spc: u32(1) }, { db: u32(2), spc: u32(3) }, record.endLsn);
    case createWalLog:
      checkTablespace(record, u32(1));
      context.createDatabase(u32(1), u32(0), record.endLsn);
      return;
    case drop: {
      const count = u32(1);
      if (count > record.mainLength / 4) throw corruptRecord(record, `database in ${count} tablespaces`);
      const spcs = Array.from({ length: count }, (_, i) => u32(2 + i));
      for (const spc of spcs) checkTablespace(record, spc);
      return dropFrom(context, u32(0), spcs, record.endLsn);
    }
    default:
      throw unknownRecord(record);
  }
}

async function dropFrom(context: IngestContext, db: number, spcs: readonly number[], lsn: Lsn): Promise<void> {
  for (const spc of spcs) await context.dropDatabase(spc, db, lsn);
}

interface Place {
  readonly spc: number;
  readonly db: number;
}

/** PostgreSQL flushes the source to disk, then logs one record for the copy of its folder: here every page is copied as an image. */
async function copyDatabase(context: IngestContext, to: Place, from: Place, lsn: Lsn): Promise<void> {
  context.createDatabase(to.spc, to.db, lsn);
  const map = relMapKey(from.spc, from.db);
  const mapImage = await context.reader.getImage(map.prefix, map.block);
  const toMap = relMapKey(to.spc, to.db);
  if (mapImage !== null) context.sink.putImage(toMap.prefix, toMap.block, lsn, mapImage);
  const directory = new RelDirectory();
  for (const source of await context.listRels(from.spc, from.db)) {
    directory.add(source.rel, source.fork);
    await copyFork(context, source, keyPrefix(keyKind.rel, to.spc, to.db, source.rel, source.fork), lsn);
  }
  const key = relDirectoryKey(to.spc, to.db);
  context.sink.putImage(key.prefix, key.block, lsn, directory.encode());
}

async function copyFork(context: IngestContext, source: KeyPrefix, target: KeyPrefix, lsn: Lsn): Promise<void> {
  const size = await context.sizes.load(source);
  await context.sizes.load(target);
  context.sizes.set(target, lsn, size);
  for (let block = 0; block < size; block++) {
    const page = await context.reader.getImage(source, block);
    if (page !== null) context.sink.putImage(target, block, lsn, page);
  }
}
