/**
 * The tenant template of this build, kept in the pageserver's folder: initdb takes seconds and runs once per folder, PGlite version and
 * template version, before the first tenant is created.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  createTenantTemplate,
  decodeTemplate,
  encodeTemplate,
  templateVersion,
} from '../../engine/basebackup/tenant-template.ts';
import type { Log, TenantTemplate } from '../../engine/services.ts';
import { loadOrMake } from '../process/cached-file.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';

export interface TemplateCacheOptions {
  readonly dir: string;
  readonly artefacts: PGliteArtefacts;
  readonly log: Log;
  /** Told before initdb runs. */
  readonly progress?: (text: string) => void;
}

export async function loadTenantTemplate(options: TemplateCacheOptions): Promise<TenantTemplate> {
  const { dir, artefacts, log, progress } = options;
  await mkdir(dir, { recursive: true });
  const path = join(dir, `template-${artefacts.version}-${templateVersion}.bin`);
  const make = () => {
    progress?.('making the tenant template with initdb (once)');
    return createTenantTemplate(artefacts);
  };
  return loadOrMake({ path, make, encode: encodeTemplate, decode: decodeTemplate }, log);
}
