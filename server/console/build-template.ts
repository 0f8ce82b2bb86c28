/**
 * A step of the build: puts the tenant template beside the browser bundle (browser/bundled-template.ts fetches it), so that the first database of a tab
 * costs no initdb. Made once for a version, and kept in node_modules/.cache.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { constants, gzipSync } from 'node:zlib';
import { templateVersion } from '../../engine/basebackup/tenant-template.ts';
import { loadTenantTemplate } from '../pageserver/template-cache.ts';
import { silentLog } from '../process/node-host.ts';
import { packageRoot } from '../process/package-root.ts';
import { loadPGliteArtefacts } from '../process/pglite-artefacts.ts';

const dir = join(packageRoot(), 'node_modules/.cache/pagelite');
const artefacts = await loadPGliteArtefacts();
await loadTenantTemplate({ dir, artefacts, log: silentLog, progress: (text) => console.log(text) });
const name = `template-${artefacts.version}-${templateVersion}.bin`;
const packed = gzipSync(readFileSync(join(dir, name)), { level: constants.Z_BEST_SPEED });
writeFileSync(join(packageRoot(), 'dist/browser-bundle', `${name}.gz`), packed);
