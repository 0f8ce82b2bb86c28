/**
 * A step of the build: puts beside the browser bundle what its workers fetch (browser/bundled-files.ts). The tenant template, so that the first database of a
 * tab costs no initdb, made once for a version and kept in node_modules/.cache; and PostgreSQL's contrib modules.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { constants, gzipSync } from 'node:zlib';
import { templateVersion } from '../../engine/basebackup/tenant-template.ts';
import { joinTars } from '../../smgr-plugin/contrib-files.ts';
import { readContribTars } from '../compute/contrib.ts';
import { loadTenantTemplate } from '../pageserver/template-cache.ts';
import { silentLog } from '../process/node-host.ts';
import { packageRoot } from '../process/package-root.ts';
import { loadPGliteArtefacts } from '../process/pglite-artefacts.ts';

const dir = join(packageRoot(), 'node_modules/.cache/pagelite');
const bundle = join(packageRoot(), 'dist/browser-bundle');
const artefacts = await loadPGliteArtefacts();
await loadTenantTemplate({ dir, artefacts, log: silentLog, progress: (text) => console.log(text) });
const name = `template-${artefacts.version}-${templateVersion}.bin`;
const pack = (bytes: Uint8Array, level: number) => gzipSync(bytes, { level });
writeFileSync(join(bundle, `${name}.gz`), pack(readFileSync(join(dir, name)), constants.Z_BEST_SPEED));
const contrib = joinTars(await readContribTars());
writeFileSync(join(bundle, `contrib-${artefacts.version}.tar.gz`), pack(contrib, constants.Z_DEFAULT_COMPRESSION));
