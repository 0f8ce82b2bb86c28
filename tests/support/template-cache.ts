/**
 * initdb takes seconds, so the tenant template that the first repository makes is kept under node_modules/.cache and put into later ones: it is
 * the very file that a pageserver finds there at its second start.
 */
import { copyFileSync, mkdirSync, readdirSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const cacheDir = resolve(import.meta.dirname, '../../node_modules/.cache/pagelite-tests');
const templateName = /^template-.*\.bin$/;

/** Into a repository whose pageserver has not been started. */
export function putTemplate(repositoryDir: string): void {
  mkdirSync(cacheDir, { recursive: true });
  const target = join(repositoryDir, 'pageserver_1');
  mkdirSync(target, { recursive: true });
  for (const name of readdirSync(cacheDir)) {
    if (templateName.test(name)) copyFileSync(join(cacheDir, name), join(target, name));
  }
}

/** From a repository whose pageserver has been started. */
export function keepTemplate(repositoryDir: string): void {
  const known = new Set(readdirSync(cacheDir));
  for (const name of readdirSync(join(repositoryDir, 'pageserver_1'))) {
    if (!templateName.test(name) || known.has(name)) continue;
    const temporary = join(cacheDir, `.${name}.${process.pid}`);
    copyFileSync(join(repositoryDir, 'pageserver_1', name), temporary);
    renameSync(temporary, join(cacheDir, name));
  }
}
