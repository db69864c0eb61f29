-- Installed by the owner of the table. Every {word} is replaced by the feeder, already quoted.
CREATE TABLE IF NOT EXISTS {dirty} (
  gen bigint GENERATED ALWAYS AS IDENTITY,
  collection text NOT NULL,
  side text NOT NULL,
  source_key text,
  noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (collection, side, gen)
);
COMMENT ON TABLE {dirty} IS
  'Rows that the vector feeder still has to read again. source_key NULL: all of them. Each change adds a row'
  ' of its own, so a writer never waits for another writer here, nor for the feeder.';
CREATE TABLE IF NOT EXISTS {installs} (
  collection text NOT NULL,
  side text NOT NULL,
  install_id text NOT NULL,
  PRIMARY KEY (collection, side)
);
CREATE TABLE IF NOT EXISTS {readers} (
  collection text NOT NULL,
  side text NOT NULL,
  reader text NOT NULL,
  seen_at timestamptz NOT NULL,
  PRIMARY KEY (collection, side, reader)
);
CREATE TABLE IF NOT EXISTS {seen} (
  reader text NOT NULL,
  gen bigint NOT NULL,
  PRIMARY KEY (gen, reader)
);
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO {dirty} (collection, side, source_key)
      SELECT {collection}, {side}, n.{key} FROM new_rows AS n WHERE n.{key} IS NOT NULL;
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO {dirty} (collection, side, source_key)
      SELECT {collection}, {side}, k.source_key
      FROM (SELECT n.{key}::text FROM new_rows AS n UNION SELECT o.{key}::text FROM old_rows AS o)
        AS k (source_key)
      WHERE k.source_key IS NOT NULL;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO {dirty} (collection, side, source_key)
      SELECT {collection}, {side}, o.{key} FROM old_rows AS o WHERE o.{key} IS NOT NULL;
  ELSE
    INSERT INTO {dirty} (collection, side, source_key) VALUES ({collection}, {side}, NULL);
  END IF;
  PERFORM pg_notify('vs_dirty', {collection});
  RETURN NULL;
END
$body$;
CREATE OR REPLACE TRIGGER {trigger_insert} AFTER INSERT ON {table}
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {trigger_update} AFTER UPDATE ON {table}
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {trigger_delete} AFTER DELETE ON {table}
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {trigger_truncate} AFTER TRUNCATE ON {table}
  FOR EACH STATEMENT EXECUTE FUNCTION {function}();
INSERT INTO {installs} (collection, side, install_id) VALUES ({collection}, {side}, {shared} || gen_random_uuid())
  ON CONFLICT (collection, side) DO UPDATE SET install_id = excluded.install_id;
