/** A timeline that is only its template: pages, sizes and basebackup of a fresh tenant, for tests that need no WAL to be ingested. */
import { buildBasebackup } from '../../engine/basebackup/basebackup.ts';
import { importTemplate } from '../../engine/basebackup/import-template.ts';
import { readRels } from '../../engine/ingest/readers.ts';
import { decodeDatabases } from '../../engine/ingest/small-directories.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { dbDirectoryKey, keyKind, sizeBlock } from '../../engine/model/key.ts';
import { invalidLsn } from '../../engine/model/lsn.ts';
import type { ForkNumber } from '../../engine/model/rel.ts';
import type { Clock, TenantTemplate } from '../../engine/services.ts';
import { MemoryPageService } from './memory-page-service.ts';
import { ValueMap } from './value-map.ts';

export async function templatePages(
  id: TenantTimelineId,
  template: TenantTemplate,
  clock: Clock,
): Promise<MemoryPageService> {
  const values = new ValueMap();
  importTemplate(template, values);
  const reader = values.reader();
  const service = new MemoryPageService(id, template.lsn, clock);
  service.basebackup = await buildBasebackup(reader, template.lsn, invalidLsn);
  const databases = decodeDatabases((await reader.getImage(dbDirectoryKey.prefix, dbDirectoryKey.block))!);
  for (const { spc, db } of databases) {
    for (const { rel, size } of await readRels(reader, spc, db)) service.putSize(template.lsn, rel, size);
  }
  for (const { prefix, block } of values.keys()) {
    if (prefix.kind !== keyKind.rel || block === sizeBlock || prefix.rel === 0) continue;
    const { spc, db, rel, fork } = prefix;
    const page = await reader.getImage(prefix, block);
    if (page !== null) service.putPage(template.lsn, { spc, db, rel, fork: fork as ForkNumber }, block, page);
  }
  return service;
}
