/**
 * The tenant template for tests that need one and are not about making it: made once per checkout, beside the one that repositories start from.
 */
import { resolve } from 'node:path';
import type { TenantTemplate } from '../../engine/services.ts';
import { loadTenantTemplate } from '../../server/pageserver/template-cache.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { loadPGliteArtefacts } from '../../server/process/pglite-artefacts.ts';

const dir = resolve(import.meta.dirname, '../../node_modules/.cache/pagelite-tests');

export async function testTemplate(): Promise<TenantTemplate> {
  return loadTenantTemplate({ dir, artefacts: await loadPGliteArtefacts(), log: silentLog });
}
