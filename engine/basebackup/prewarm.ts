/**
 * The pages that a booting compute is going to read anyway, so that boot is one answer instead of some fifty.
 *
 * Until Postgres has built its caches it scans pg_class and pg_attribute from end to end and goes through the indexes of a few small catalogs; the
 * list is what PGlite was seen to read from its start to the first query. The catalogs are those of database `postgres`, to which PGlite
 * connects, and the shared ones. Only a hint: a catalog that is not where it is looked for here is read when it is needed.
 *
 * Every other relation fork is told with its size and no pages, which saves the compute a question per file.
 */
import { readRels } from '../ingest/readers.ts';
import type { DatabaseEntry } from '../ingest/small-directories.ts';
import { pageSize, pagesPerRequestMax } from '../limits.ts';
import { relMapKey, relPrefix } from '../model/key.ts';
import { globalTablespace, mainFork, type RelTag } from '../model/rel.ts';
import type { PrewarmPages, ValueReader } from '../services.ts';

/** PostgresDbOid */
const postgresDatabase = 5;

/** Catalogs and their indexes by oid (src/include/catalog). */
const bootCatalogs = new Set([
  1247, // pg_type
  2703, // pg_type_oid_index
  2704, // pg_type_typname_nsp_index
  1249, // pg_attribute
  2659, // pg_attribute_relid_attnum_index
  1259, // pg_class
  2662, // pg_class_oid_index
  2663, // pg_class_relname_nsp_index
  1255, // pg_proc
  2690, // pg_proc_oid_index
  2691, // pg_proc_proname_args_nsp_index
  2601, // pg_am
  2602, // pg_amop
  2653, // pg_amop_fam_strat_index
  2654, // pg_amop_opr_fam_index
  2603, // pg_amproc
  2655, // pg_amproc_fam_proc_index
  2605, // pg_cast
  2661, // pg_cast_source_target_index
  2606, // pg_constraint
  2665, // pg_constraint_conrelid_contypid_conname_index
  2610, // pg_index
  2678, // pg_index_indrelid_index
  2679, // pg_index_indexrelid_index
  2615, // pg_namespace
  2684, // pg_namespace_nspname_index
  2685, // pg_namespace_oid_index
  2616, // pg_opclass
  2686, // pg_opclass_am_name_nsp_index
  2687, // pg_opclass_oid_index
  2617, // pg_operator
  2688, // pg_operator_oid_index
  2689, // pg_operator_oprname_l_r_n_index
  2753, // pg_opfamily
  2755, // pg_opfamily_oid_index
  2696, // pg_statistic_relid_att_inh_index
  3379, // pg_statistic_ext_relid_index
  1213, // pg_tablespace
  2697, // pg_tablespace_oid_index
  1260, // pg_authid
  2676, // pg_authid_rolname_index
  2677, // pg_authid_oid_index
  1262, // pg_database
  2671, // pg_database_datname_index
  2672, // pg_database_oid_index
  2965, // pg_db_role_setting_databaseid_rol_index
]);

/** Sizes of all relation forks, with pages where boot is going to read them. */
export async function prewarmPages(reader: ValueReader, databases: readonly DatabaseEntry[]): Promise<PrewarmPages[]> {
  const entries: PrewarmPages[] = [];
  for (const { spc, db } of databases) {
    const wanted = spc === globalTablespace || db === postgresDatabase ? await bootFiles(reader, spc, db) : null;
    for (const { rel, size } of await readRels(reader, spc, db)) {
      const hasPages = wanted !== null && rel.fork === mainFork && wanted.has(rel.rel);
      const pages = hasPages ? await firstPages(reader, rel, size) : new Uint8Array(0);
      entries.push({ rel, relSize: size, firstBlock: 0, pages });
    }
  }
  return entries;
}

async function firstPages(reader: ValueReader, rel: RelTag, size: number): Promise<Uint8Array> {
  const count = Math.min(size, pagesPerRequestMax);
  const pages = new Uint8Array(count * pageSize);
  const prefix = relPrefix(rel);
  const images = await Promise.all(Array.from({ length: count }, (_, block) => reader.getImage(prefix, block)));
  images.forEach((image, block) => {
    if (image !== null) pages.set(image, block * pageSize);
  });
  return pages;
}

/** File numbers of the boot catalogs: of mapped ones from the relation map, of the others their oid, which they have until they are rewritten. */
async function bootFiles(reader: ValueReader, spc: number, db: number): Promise<Set<number>> {
  const files = new Set(bootCatalogs);
  const key = relMapKey(spc, db);
  const map = await reader.getImage(key.prefix, key.block);
  if (map === null || map.length < 8) return files;
  // RelMapFile (relmapper.c): u32 magic, u32 count, then (u32 oid, u32 file number) each.
  const view = new DataView(map.buffer, map.byteOffset, map.byteLength);
  const count = Math.min(view.getUint32(4, true), Math.floor((map.length - 8) / 8));
  for (let i = 0; i < count; i++) {
    const oid = view.getUint32(8 + i * 8, true);
    if (files.delete(oid)) files.add(view.getUint32(12 + i * 8, true));
  }
  return files;
}
