-- Installed by a user with TRIGGER and CREATE. Every {word} is replaced by the feeder, already quoted.
CREATE TABLE IF NOT EXISTS {dirty} (
  gen BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  collection VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  side VARCHAR(8) CHARACTER SET ascii NOT NULL,
  source_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
  noticed_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (gen),
  KEY by_feed (collection, side, gen)
) ENGINE=InnoDB COMMENT='Rows that the vector feeder still has to read again';
--;
CREATE TABLE IF NOT EXISTS {installs} (
  collection VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  side VARCHAR(8) CHARACTER SET ascii NOT NULL,
  install_id VARCHAR(64) NOT NULL,
  PRIMARY KEY (collection, side)
) ENGINE=InnoDB;
--;
CREATE TABLE IF NOT EXISTS {readers} (
  collection VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  side VARCHAR(8) CHARACTER SET ascii NOT NULL,
  reader VARCHAR(64) CHARACTER SET ascii NOT NULL,
  seen_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (collection, side, reader)
) ENGINE=InnoDB;
--;
CREATE TABLE IF NOT EXISTS {seen} (
  reader VARCHAR(64) CHARACTER SET ascii NOT NULL,
  gen BIGINT UNSIGNED NOT NULL,
  PRIMARY KEY (gen, reader)
) ENGINE=InnoDB;
--;
CREATE OR REPLACE TRIGGER {trigger_insert} AFTER INSERT ON {table} FOR EACH ROW
  IF NEW.{key} IS NOT NULL THEN
    INSERT INTO {dirty} (collection, side, source_key) VALUES ({collection}, {side}, NEW.{key});
  END IF;
--;
CREATE OR REPLACE TRIGGER {trigger_update} AFTER UPDATE ON {table} FOR EACH ROW
  BEGIN
    IF NEW.{key} IS NOT NULL THEN
      INSERT INTO {dirty} (collection, side, source_key) VALUES ({collection}, {side}, NEW.{key});
    END IF;
    IF OLD.{key} IS NOT NULL AND NOT CAST(OLD.{key} AS BINARY) <=> CAST(NEW.{key} AS BINARY) THEN
      INSERT INTO {dirty} (collection, side, source_key) VALUES ({collection}, {side}, OLD.{key});
    END IF;
  END;
--;
CREATE OR REPLACE TRIGGER {trigger_delete} AFTER DELETE ON {table} FOR EACH ROW
  IF OLD.{key} IS NOT NULL THEN
    INSERT INTO {dirty} (collection, side, source_key) VALUES ({collection}, {side}, OLD.{key});
  END IF;
--;
INSERT INTO {installs} (collection, side, install_id) VALUES ({collection}, {side}, CONCAT({shared}, UUID()))
  ON DUPLICATE KEY UPDATE install_id = VALUES(install_id);
